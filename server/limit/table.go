package limit

import "time"

// mostBuckets bounds the buckets in memory, some 100 bytes each: every principal of a large organisation has its own.
const mostBuckets = 1 << 16

// looked is how many buckets are looked at to find one that can go.
const looked = 16

// bucket is what is remembered of one name.
type bucket struct {
	full    time.Time // see gcra.go
	running int       // requests under way
}

// table is the buckets of this process. A bucket that is full and that nobody uses is the same as none, so such ones go
// first where there are too many; else the one that is nearest to it. The owner locks it.
type table struct {
	most    int
	buckets map[string]bucket
}

func newTable(most int) *table { return &table{most: most, buckets: map[string]bucket{}} }

func (t *table) put(name string, b bucket, now time.Time) {
	if b.running == 0 && !b.full.After(now) {
		delete(t.buckets, name)
		return
	}
	if _, known := t.buckets[name]; !known && len(t.buckets) >= t.most {
		t.evict(now)
	}
	t.buckets[name] = b
}

// evict makes room for one. The order of a Go map is random enough for a sample.
func (t *table) evict(now time.Time) {
	victim, least, n := "", time.Time{}, 0
	for name, b := range t.buckets {
		if n++; n > looked && victim != "" {
			break
		}
		if b.running > 0 {
			continue
		}
		if victim == "" || b.full.Before(least) {
			victim, least = name, b.full
		}
		if !b.full.After(now) {
			break
		}
	}
	delete(t.buckets, victim) // none where all have requests under way, whose number the server bounds
}
