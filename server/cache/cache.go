package cache

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/seal"
)

const keySize = sha256.Size

// Key names an answer: whose it is, and a keyed hash of all that shapes it.
type Key struct {
	sum    [keySize]byte
	tenant string
}

// Options open a Cache.
type Options struct {
	Config config.Cache
	// Store is the Redis that hosts share, and Box seals what is put there; both or neither.
	Store   Store
	Box     *seal.Box
	Metrics *metrics.Registry
	Now     func() time.Time
}

// Cache keeps answers. Life: New, calls from any goroutine, Close.
type Cache struct {
	now    func() time.Time
	secret []byte // of keys that are of use to this process alone
	box    *seal.Box
	shared *shared // nil = none
	meters *meters

	memory *otter.Cache[[keySize]byte, *record]
	ttl    atomic.Int64
	on     atomic.Bool

	mu      sync.Mutex // guards flights
	flights map[Key]*flight
}

// overhead is what an entry costs beside tenant and payload: itself, its place in the table and in the policy's queues.
const overhead = 256

// New makes an empty Cache.
func New(o Options) (*Cache, error) {
	c := &Cache{now: o.Now, box: o.Box, secret: make([]byte, 32), flights: map[Key]*flight{}}
	rand.Read(c.secret) // never fails
	var err error
	c.memory, err = otter.New(&otter.Options[[keySize]byte, *record]{
		MaximumWeight: bytesOf(o.Config),
		Weigher:       func(_ [keySize]byte, r *record) uint32 { return uint32(overhead + len(r.key.tenant) + len(r.payload)) },
		Executor:      func(f func()) { f() }, // it tidies up where it is called, and leaves no goroutine behind
	})
	if err != nil {
		return nil, fmt.Errorf("open the cache: %w", err)
	}
	c.meters = newMeters(o.Metrics, c)
	if o.Store != nil {
		if !o.Box.On() {
			return nil, fmt.Errorf("open the cache: answers in a store that others can write to need a key that seals them")
		}
		c.shared = newShared(c, o.Store)
	}
	c.Apply(o.Config)
	return c, nil
}

func bytesOf(c config.Cache) uint64 { return uint64(c.MemoryMB) << 20 }

// Apply takes over what can be changed while the host runs.
func (c *Cache) Apply(cfg config.Cache) {
	c.ttl.Store(int64(cfg.TTL))
	c.memory.SetMaximum(bytesOf(cfg))
	c.on.Store(cfg.Answers == "on")
	if !c.On() {
		c.memory.InvalidateAll()
	}
}

// On reports whether answers are kept.
func (c *Cache) On() bool { return c.on.Load() }

// Key makes the key of an answer to tenant from all that shapes it; no two lists of parts have the same key.
func (c *Cache) Key(tenant string, parts ...[]byte) Key {
	k := Key{tenant: tenant}
	all := append([][]byte{[]byte(tenant)}, parts...)
	if c.shared != nil { // hosts that share answers must name them alike
		k.sum = c.box.MAC(purpose, all...)
		return k
	}
	h := hmac.New(sha256.New, c.secret)
	for _, p := range all {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		h.Write(p)
	}
	h.Sum(k.sum[:0])
	return k
}

// Hit is a kept answer.
type Hit struct {
	Payload []byte // not to be changed
	Age     time.Duration
	Left    time.Duration // until it is given no more
	From    string        // memory, redis or flight: somebody asked the same at the same time
}

func (c *Cache) hit(r *record, from string) *Hit {
	now := c.now()
	left := min(r.expires.Sub(now), time.Duration(c.ttl.Load())-now.Sub(r.made))
	return &Hit{Payload: r.payload, Age: max(now.Sub(r.made), 0), Left: max(left, 0), From: from}
}

// local looks into the memory.
func (c *Cache) local(k Key) *record {
	r, ok := c.memory.GetIfPresent(k.sum)
	if !ok || !c.On() {
		return nil
	}
	if !r.valid(k, c.now(), time.Duration(c.ttl.Load())) {
		c.memory.Invalidate(k.sum)
		return nil
	}
	return r
}

// Find is the kept answer, from memory or from Redis; nil = there is none.
func (c *Cache) Find(ctx context.Context, k Key) *Hit {
	if r := c.local(k); r != nil {
		return c.hit(r, "memory")
	}
	if r := c.remote(ctx, k); r != nil {
		return c.hit(r, "redis")
	}
	return nil
}

// remote looks into Redis, and keeps in memory what it finds.
func (c *Cache) remote(ctx context.Context, k Key) *record {
	if c.shared == nil || !c.On() {
		return nil
	}
	r := c.shared.get(ctx, k)
	if r != nil {
		c.memory.Set(k.sum, r)
	}
	return r
}

// Put keeps an answer. The payload is not to be changed any more. One that is too large is not kept.
func (c *Cache) Put(k Key, payload []byte) {
	c.put(k, payload)
}

func (c *Cache) put(k Key, payload []byte) *record {
	switch {
	case !c.On():
		return nil
	case len(payload) > maxPayload || len(k.tenant) > maxTenant:
		c.meters.rejected("too_large")
		return nil
	}
	now := c.now()
	r := &record{key: k, made: now.Truncate(time.Millisecond), payload: payload}
	r.expires = r.made.Add(time.Duration(c.ttl.Load()))
	c.memory.Set(k.sum, r)
	c.meters.stored.Inc()
	if c.shared != nil {
		c.shared.put(r)
	}
	return r
}

// Close ends what runs in the background and waits for it.
func (c *Cache) Close() {
	if c.shared != nil {
		c.shared.close()
	}
}

// Stats is how the cache is, for people.
type Stats struct {
	On      bool             `json:"on"`
	Entries int              `json:"entries"`
	Bytes   uint64           `json:"bytes"`
	Most    uint64           `json:"max_bytes"`
	TTL     string           `json:"ttl"`
	Shared  bool             `json:"shared"`
	Counts  map[string]int64 `json:"counts"` // requests by what came of them, stored and rejected answers
}

// Stats reads the counters.
func (c *Cache) Stats() Stats {
	return Stats{
		On: c.On(), Entries: c.memory.EstimatedSize(), Bytes: c.memory.WeightedSize(), Most: c.memory.GetMaximum(),
		TTL: time.Duration(c.ttl.Load()).String(), Shared: c.shared != nil, Counts: c.meters.counts(),
	}
}
