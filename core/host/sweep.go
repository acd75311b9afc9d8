package host

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pimoe/pimoe/sdk/expert"
)

// defaultSweep is how often the shards in use are hashed again: often enough that rot is found within the hour on any
// disk, seldom enough that the reading does not show.
const defaultSweep = 10 * time.Minute

// firstSweep is when the first one begins: a start believes what was found out before about a file that has not changed
// since, so the bits themselves are looked at soon after, when the first requests have been served.
const firstSweep = time.Minute

// sweep hashes the shards again and again while they are in use, until ctx ends. The processes of a shard that is no
// longer what was imported are replaced; if it stays damaged, their group says so.
func sweep(ctx context.Context, every time.Duration, shards *shardSet, seats []*seat, o Options) {
	good := map[*shard]mark{}
	began := time.Now()
	for wait := min(every, firstSweep); sleep(ctx, wait); wait = every {
		for _, sh := range shards.inUse() {
			groups := serving(seats, sh.expert)
			looked := mark{time.Now(), callsOf(groups)} // before the look: what is computed meanwhile counts for the next one
			err := sh.recheck(ctx)
			if ctx.Err() != nil {
				continue
			}
			if err == nil {
				good[sh] = looked
				continue
			}
			o.Log.Error("weight shard is damaged", "expert", sh.expert, "err", err)
			last, ok := good[sh]
			if !ok {
				last = mark{at: began}
			}
			for _, g := range groups {
				g.condemn("computed with a damaged weight shard")
			}
			// A swap gives a group new counts, so there may be fewer than at the last look.
			o.tell(Event{What: EventDamaged, Object: fmt.Sprintf("expert %d", sh.expert), Why: err.Error(), Since: last.at, Calls: looked.calls - min(last.calls, looked.calls)})
		}
	}
}

// mark is a moment in the life of a shard.
type mark struct {
	at    time.Time
	calls uint64 // that had been computed with it
}

// serving are the groups that compute with an expert's weights.
func serving(seats []*seat, number int) (out []*group) {
	for _, s := range seats {
		g := s.own() // an attached plugin's weights are its author's affair
		if slices.ContainsFunc(g.spec.Units, func(u expert.Unit) bool { return u.Expert == number }) {
			out = append(out, g)
		}
	}
	return out
}

func callsOf(groups []*group) (n uint64) {
	for _, g := range groups {
		for _, s := range g.stats {
			n += s.calls.Load()
		}
	}
	return n
}

// condemn has every living process of the group replaced.
func (g *group) condemn(cause string) {
	for _, s := range g.replicas {
		if inc, _, _ := s.ready(); inc != nil {
			inc.condemned(cause)
		}
	}
}
