package cache

import "context"

// flight is one answer that is being computed, and those who wait for it.
type flight struct {
	done   chan struct{}
	record *record // what came of it; nil = nothing to share
	again  bool    // whoever computed it has gone: somebody else is to
}

// Computed is what a computation has to say about its answer.
type Computed struct {
	Payload []byte
	Keep    bool // it would be the same again, and is whole
}

// Do is the answer to k: a kept one, the one that an equal request is computing right now, or what compute makes. A nil Hit
// means that compute ran, here, and how it ended is err. Whoever waits for another request does so until its own ctx ends;
// if that other request goes away, one of those who wait takes over; if it fails, or its answer is not to be kept, all
// compute for themselves.
func (c *Cache) Do(ctx context.Context, k Key, compute func() (Computed, error)) (*Hit, error) {
	for {
		if r := c.local(k); r != nil {
			return c.hit(r, "memory"), nil
		}
		f, mine := c.join(k)
		if mine {
			return c.lead(ctx, k, f, compute)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		switch {
		case f.record != nil:
			return c.hit(f.record, "flight"), nil
		case !f.again:
			return nil, c.alone(k, compute)
		}
	}
}

// join is the flight of k, and whether the caller has just begun it.
func (c *Cache) join(k Key) (*flight, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[k]; f != nil {
		return f, false
	}
	f := &flight{done: make(chan struct{})}
	c.flights[k] = f
	return f, true
}

// lead computes for all who wait. The flight ends whatever happens, a panic of compute included.
func (c *Cache) lead(ctx context.Context, k Key, f *flight, compute func() (Computed, error)) (*Hit, error) {
	defer func() {
		c.mu.Lock()
		delete(c.flights, k)
		c.mu.Unlock()
		close(f.done)
	}()
	if f.record = c.remote(ctx, k); f.record != nil {
		return c.hit(f.record, "redis"), nil
	}
	done, err := compute()
	switch {
	case err != nil:
		f.again = ctx.Err() != nil // its client or its deadline, not the answer
	case done.Keep:
		f.record = c.put(k, done.Payload)
	}
	return nil, err
}

// alone computes for nobody else.
func (c *Cache) alone(k Key, compute func() (Computed, error)) error {
	done, err := compute()
	if err == nil && done.Keep {
		c.put(k, done.Payload)
	}
	return err
}
