// Package idempotency answers a repeated request with the answer of the first: whoever sends a request with a key of its own
// and hears nothing can send it again, and it is computed once. Answers are kept for each tenant in the host's database, so
// that they survive its end; a request that ended without an answer may be computed again, because nobody has got one.
//
// server asks for a Claim before it computes and keeps the answer before it sends it. The package refuses a key that comes
// with another request, one whose first request is still under way, and more than the limits allow; it never drops an answer
// before its time to make room.
package idempotency

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/durable"
)

// MaxKey bounds a key: a UUID, or a hash with words before it, fits several times over.
const MaxKey = 255

// MaxAnswer is the largest answer that is kept whole, in bytes. Of a larger one it is kept that it was given.
const MaxAnswer = 8 << 20

// The errors of Claim.
var (
	// ErrReused says that the key has come with another request before.
	ErrReused = fmt.Errorf("this Idempotency-Key was used for another request: take a new key for a new request: %w", sdk.ErrInvalid)
	// ErrInUse says that the first request with the key is still under way.
	ErrInUse = fmt.Errorf("the first request with this Idempotency-Key is still under way: %w", sdk.ErrUnavailable)
	// ErrFull says that the tenant has as many keys, or as large answers, as the limits allow.
	ErrFull = fmt.Errorf("as many Idempotency-Keys as the limits allow are kept: wait until the oldest are forgotten: %w", sdk.ErrOverloaded)
)

// Answer is what a request was answered with.
type Answer struct {
	Print       []byte // of the request
	At          time.Time
	Status      int
	ContentType string
	Header      map[string]string `json:",omitempty"`
	Whole       bool              // Body is the body; else it was too large to be kept
	Bytes       int64             // that the answer takes
	Body        []byte            `json:"-"` // kept apart, so that a start need not read it
}

// Options are what Keys need.
type Options struct {
	DB     *durable.DB
	Limits config.Idempotency
	Now    func() time.Time
}

// Keys are the keys of all tenants. The order of locks is writing, the database's, mu.
type Keys struct {
	Options
	writing sync.Mutex // held while records change in the database and then in the index
	mu      sync.Mutex // guards all below
	loaded  bool
	claims  map[string]*Claim // by place: requests under way
	ended   sync.Cond         // the number of claims has gone down; its lock is mu
	kept    map[string]entry  // by place
	tenants map[string]use
	bytes   int64
}

// entry is what the limits need of a kept answer.
type entry struct {
	tenant string
	at     time.Time
	bytes  int64
}

// use is what a tenant takes.
type use struct {
	count int
	bytes int64
}

// New makes Keys that read the database when they are first asked.
func New(o Options) *Keys {
	k := &Keys{Options: o, claims: map[string]*Claim{}, kept: map[string]entry{}, tenants: map[string]use{}}
	k.ended.L = &k.mu
	return k
}

// The buckets: what is known of an answer, and its body.
const (
	bucket     = "idempotency"
	bodyBucket = "idempotency.bodies"
)

// Part is what this package keeps in the database.
func Part() durable.Part {
	return durable.Part{Name: "idempotency", Buckets: []string{bucket, bodyBucket}, Migrations: []func(*durable.Tx) error{
		func(tx *durable.Tx) error { return errors.Join(tx.Make(bucket), tx.Make(bodyBucket)) },
	}}
}

// placeOf is where a tenant's key is kept. Of the key there is a hash: it may be a name or a number of somebody.
func placeOf(tenant, key string) string {
	sum := sha256.Sum256([]byte(key))
	return tenant + "\x00" + string(sum[:])
}

// Print is the fingerprint of a request: of each part and of where one ends and the next begins.
func Print(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return h.Sum(nil)
}

// Claim is a key whose request is under way. Whoever has it calls Release in the end, after Keep or without.
type Claim struct {
	keys   *Keys
	tenant string
	place  string
	print  []byte
	bytes  int64 // that Keep has written and Release makes known
	at     time.Time
}

// Claim takes a key for a request, or gives the answer that is kept for it.
func (k *Keys) Claim(ctx context.Context, tenant, key string, print []byte) (*Claim, *Answer, error) {
	if err := k.load(ctx); err != nil {
		return nil, nil, err
	}
	c := &Claim{keys: k, tenant: tenant, place: placeOf(tenant, key), print: print}
	if err := k.take(c); err != nil {
		return nil, nil, err
	}
	a, err := k.read(ctx, c.place)
	switch {
	case err != nil:
	case a != nil && k.Now().Sub(a.At) < k.Limits.Retention:
		c.Release()
		if !bytes.Equal(a.Print, print) {
			return nil, nil, ErrReused
		}
		return nil, a, nil
	default:
		err = k.room(tenant, c.place)
	}
	if err != nil {
		c.Release()
		return nil, nil, err
	}
	return c, nil, nil
}

// take refuses a key that another request has.
func (k *Keys) take(c *Claim) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if first := k.claims[c.place]; first != nil {
		if !bytes.Equal(first.print, c.print) {
			return ErrReused
		}
		return ErrInUse
	}
	k.claims[c.place] = c
	return nil
}

// room refuses one more key where the limits leave none. A claim that is under way counts as a key.
func (k *Keys) room(tenant, place string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, known := k.kept[place]; known {
		return nil // an answer that is past its time gives its place
	}
	under := 0
	for _, c := range k.claims {
		if c.tenant == tenant {
			under++
		}
	}
	if u := k.tenants[tenant]; u.count+under > k.Limits.MaxPerTenant || u.bytes >= megabytes(k.Limits.MaxMBPerTenant) || k.bytes >= megabytes(k.Limits.MaxMB) {
		return ErrFull
	}
	return nil
}

func megabytes(n int) int64 { return int64(n) << 20 }

// Keep writes the answer in a transaction of the caller's, which may do more.
func (c *Claim) Keep(tx *durable.Tx, a Answer) error {
	a.Print, a.At = c.print, c.keys.Now().UTC()
	if a.Whole = a.Whole && len(a.Body) <= MaxAnswer; !a.Whole {
		a.Body = nil
	}
	a.Bytes = headBytes + int64(len(a.Body))
	record, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("record of an answer: %w", err)
	}
	c.bytes, c.at = a.Bytes, a.At
	at := []byte(c.place)
	return errors.Join(tx.Put(bucket, at, record), tx.Put(bodyBucket, at, a.Body))
}

// headBytes is what an answer takes beside its body, about.
const headBytes = 512

// Kept reports whether an answer has been kept.
func (c *Claim) Kept() bool { return c.bytes > 0 }

// Done keeps the answer in a transaction of its own.
func (c *Claim) Done(ctx context.Context, a Answer) error {
	c.keys.writing.Lock()
	defer c.keys.writing.Unlock()
	err := c.keys.DB.Update(ctx, func(tx *durable.Tx) error { return c.Keep(tx, a) })
	if err != nil {
		c.bytes = 0
		return fmt.Errorf("keep the answer: %w", err)
	}
	return nil
}

// Dropped takes back what Keep has said: the transaction was not committed.
func (c *Claim) Dropped() { c.bytes = 0 }

// Release ends the claim. Without an answer the key is as if it had never come. A second call does nothing.
func (c *Claim) Release() {
	k := c.keys
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.claims[c.place] != c {
		return
	}
	delete(k.claims, c.place)
	if c.bytes > 0 {
		k.put(c.place, entry{c.tenant, c.at, c.bytes})
	}
	k.ended.Broadcast()
}

// put needs mu; it keeps the sums. An entry of no bytes removes.
func (k *Keys) put(place string, e entry) {
	old, had := k.kept[place]
	tenant := cmp.Or(e.tenant, old.tenant)
	u := k.tenants[tenant]
	u.bytes += e.bytes - old.bytes
	k.bytes += e.bytes - old.bytes
	if !had {
		u.count++
	}
	k.kept[place] = e
	if e.bytes == 0 {
		u.count--
		delete(k.kept, place)
	}
	if k.tenants[tenant] = u; u.count == 0 {
		delete(k.tenants, tenant)
	}
}

// Idle waits until no claim is under way, or the context's error.
func (k *Keys) Idle(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.ended.Broadcast()
	})()
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.claims) > 0 && ctx.Err() == nil {
		k.ended.Wait()
	}
	return ctx.Err()
}

// Size is how many keys are kept, how many bytes of answers, and how many requests are under way.
func (k *Keys) Size() (keys int, bytes int64, under int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.kept), k.bytes, len(k.claims)
}

// load reads once what is kept.
func (k *Keys) load(ctx context.Context) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.Lock()
	loaded := k.loaded
	k.mu.Unlock()
	if loaded {
		return nil
	}
	all := map[string]entry{}
	if err := k.DB.View(ctx, func(tx *durable.Tx) error {
		return tx.Each(bucket, nil, func(place, record []byte) (bool, error) {
			a, err := parseAnswer(record)
			tenant, _, ok := bytes.Cut(place, []byte{0})
			if err == nil && !ok {
				err = fmt.Errorf("a kept answer without a tenant: %w", sdk.ErrInvalid)
			}
			if err == nil {
				all[string(place)] = entry{string(tenant), a.At, a.Bytes}
			}
			return true, err
		})
	}); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for place, e := range all {
		k.put(place, e)
	}
	k.loaded = true
	return nil
}

func (k *Keys) read(ctx context.Context, place string) (a *Answer, err error) {
	err = k.DB.View(ctx, func(tx *durable.Tx) error {
		record, err := tx.Get(bucket, []byte(place))
		if err != nil || record == nil {
			return err
		}
		if a, err = parseAnswer(record); err != nil {
			return err
		}
		a.Body, err = tx.Get(bodyBucket, []byte(place))
		return err
	})
	return a, err
}

// sweepChunk bounds how many answers one transaction removes, and so how long others wait for it.
const sweepChunk = 1000

// Sweep forgets the answers whose time is up.
func (k *Keys) Sweep(ctx context.Context) error {
	if err := k.load(ctx); err != nil {
		return err
	}
	k.mu.Lock()
	var old []string
	for place, e := range k.kept {
		if _, under := k.claims[place]; !under && k.Now().Sub(e.at) >= k.Limits.Retention {
			old = append(old, place)
		}
	}
	k.mu.Unlock()
	for chunk := range slices.Chunk(old, sweepChunk) {
		if err := k.forget(ctx, chunk); err != nil {
			return fmt.Errorf("forget old answers: %w", err)
		}
	}
	return nil
}

// forget removes those of some answers that are still past their time.
func (k *Keys) forget(ctx context.Context, places []string) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	var gone []string
	if err := k.DB.Update(ctx, func(tx *durable.Tx) error {
		gone = gone[:0]
		for _, place := range places {
			record, err := tx.Get(bucket, []byte(place))
			if err != nil {
				return err
			}
			if a, err := parseAnswer(record); err == nil && k.Now().Sub(a.At) < k.Limits.Retention {
				continue // a new one meanwhile
			}
			gone = append(gone, place)
			if err := errors.Join(tx.Delete(bucket, []byte(place)), tx.Delete(bodyBucket, []byte(place))); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, place := range gone {
		if k.Now().Sub(k.kept[place].at) >= k.Limits.Retention { // else another answer has taken the place since
			k.put(place, entry{})
		}
	}
	return nil
}

// parseAnswer reads what Keep has written, without the body.
func parseAnswer(record []byte) (*Answer, error) {
	var a Answer
	if err := json.Unmarshal(record, &a); err != nil {
		return nil, fmt.Errorf("record of an answer: %w", errors.Join(sdk.ErrInvalid, err))
	}
	if len(a.Print) != sha256.Size || a.Status < 100 || a.Status > 599 || a.Bytes < headBytes {
		return nil, fmt.Errorf("record of an answer: fields that don't fit together: %w", sdk.ErrInvalid)
	}
	return &a, nil
}
