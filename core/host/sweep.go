package host

import (
	"context"
	"log/slog"
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
func sweep(ctx context.Context, every time.Duration, shards *shardSet, seats []*seat, log *slog.Logger) {
	for wait := min(every, firstSweep); sleep(ctx, wait); wait = every {
		for _, sh := range shards.inUse() {
			err := sh.recheck(ctx)
			if err == nil || ctx.Err() != nil {
				continue
			}
			log.Error("weight shard is damaged", "expert", sh.expert, "err", err)
			for _, s := range seats {
				g, err := s.group()
				if err != nil {
					continue // an attached plugin is its author's affair
				}
				if slices.ContainsFunc(g.spec.Units, func(u expert.Unit) bool { return u.Expert == sh.expert }) {
					g.condemn("computed with a damaged weight shard")
				}
			}
		}
	}
}

// condemn has every living process of the group replaced.
func (g *group) condemn(cause string) {
	for _, s := range g.replicas {
		if inc, _, _ := s.ready(); inc != nil {
			inc.condemned(cause)
		}
	}
}
