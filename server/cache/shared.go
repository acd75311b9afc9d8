package cache

import (
	"context"
	"encoding/hex"
	"errors"
	"sync"
	"time"

	"github.com/pimoe/pimoe/server/redisdb"
)

// Store is the part of *redisdb.DB that the cache uses.
type Store interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error
}

// purpose separates the cache's keys and records from everything else that the same key seals.
const purpose = "cache.answer"

// maxWaiting answers wait to be written: at a megabyte each the most memory that a slow Redis can hold up. One more is
// dropped, which costs another host a computation.
const maxWaiting = 32

// shared is the Redis behind the memory.
type shared struct {
	c      *Cache
	store  Store
	queue  chan *record
	ctx    context.Context
	cancel context.CancelFunc
	writer sync.WaitGroup
}

func newShared(c *Cache, store Store) *shared {
	s := &shared{c: c, store: store, queue: make(chan *record, maxWaiting)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.writer.Go(s.write)
	return s
}

func (s *shared) close() {
	s.cancel()
	s.writer.Wait()
}

func place(k Key) string { return "cache:" + hex.EncodeToString(k.sum[:]) }

// bound is what a record is sealed for: the place where it lies, and the tenant.
func bound(k Key) []byte { return append(k.sum[:], k.tenant...) }

// get is a record that is whole, k's own and not too old; everything else is nil.
func (s *shared) get(ctx context.Context, k Key) *record {
	sealed, err := s.store.Get(ctx, place(k))
	if err != nil {
		if !errors.Is(err, redisdb.ErrMissing) {
			s.c.meters.lost("get")
		}
		return nil
	}
	plain, err := s.c.box.Open(purpose, bound(k), sealed)
	if err != nil {
		s.c.meters.rejected("not_ours")
		return nil
	}
	r, err := parseRecord(plain)
	if err != nil {
		s.c.meters.rejected("format")
		return nil
	}
	if !r.valid(k, s.c.now(), time.Duration(s.c.ttl.Load())) {
		s.c.meters.rejected("stale")
		return nil
	}
	return &r
}

// put hands a record to the writer.
func (s *shared) put(r *record) {
	select {
	case s.queue <- r:
	default:
		s.c.meters.lost("queue")
	}
}

// write seals and sends records until close.
func (s *shared) write() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case r := <-s.queue:
			sealed := s.c.box.Seal(purpose, bound(r.key), r.append(nil))
			if err := s.store.Set(s.ctx, place(r.key), sealed, max(r.expires.Sub(s.c.now()), time.Millisecond)); err != nil {
				s.c.meters.lost("set")
			}
		}
	}
}
