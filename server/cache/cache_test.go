package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/redisdb"
	"github.com/pimoe/pimoe/server/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that stands still until it is moved.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

// memory is a Store in memory that does what it is told, and nothing else.
type memory struct {
	mu     sync.Mutex
	values map[string][]byte
	set    chan string // the key of each Set, if not nil
}

func newMemory() *memory {
	return &memory{values: map[string][]byte{}, set: make(chan string, 64)}
}

func (m *memory) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.values[key]; ok {
		return bytes.Clone(v), nil
	}
	return nil, redisdb.ErrMissing
}

func (m *memory) Set(_ context.Context, key string, value []byte, _ time.Duration) error {
	m.mu.Lock()
	m.values[key] = bytes.Clone(value)
	m.mu.Unlock()
	m.set <- key
	return nil
}

func newBox(t testing.TB) *seal.Box {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte(seal.NewLine()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	box, err := seal.Load(config.Encryption{KeyFile: path})
	if err != nil {
		t.Fatal(err)
	}
	return box
}

func newCache(t testing.TB, o Options) *Cache {
	t.Helper()
	if o.Config == (config.Cache{}) {
		o.Config = config.Default().Cache
	}
	if o.Now == nil {
		o.Now = newClock().now
	}
	o.Metrics = metrics.New()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestAnswersEnd(t *testing.T) {
	now := newClock()
	c := newCache(t, Options{Now: now.now})
	k := c.Key("red", []byte("a"))
	c.Put(k, []byte("one"))
	now.advance(9*time.Minute + 59*time.Second)
	h := c.Find(t.Context(), k)
	if h == nil || string(h.Payload) != "one" || h.Age != 9*time.Minute+59*time.Second || h.Left != time.Second || h.From != "memory" {
		t.Fatalf("%+v", h)
	}
	now.advance(time.Second)
	if h := c.Find(t.Context(), k); h != nil {
		t.Errorf("after its time: %+v", h)
	}
	c.Put(k, []byte("two"))
	now.advance(2 * time.Minute)
	cfg := config.Default().Cache
	cfg.TTL = time.Minute
	c.Apply(cfg)
	if h := c.Find(t.Context(), k); h != nil {
		t.Errorf("older than the time that holds now: %+v", h)
	}
	c.Put(k, []byte("three"))
	now.advance(-time.Hour)
	if h := c.Find(t.Context(), k); h != nil {
		t.Errorf("from an hour ahead: %+v", h)
	}
}

func TestKeysTellPartsApart(t *testing.T) {
	for name, c := range map[string]*Cache{"alone": newCache(t, Options{}), "shared": newCache(t, Options{Store: newMemory(), Box: newBox(t)})} {
		seen := map[Key]string{}
		for _, parts := range [][]string{{"t", "ab", "c"}, {"t", "a", "bc"}, {"ta", "b", "c"}, {"t", "abc"}, {"t", "abc", ""}, {"t"}, {"", "t"}} {
			var rest [][]byte
			for _, p := range parts[1:] {
				rest = append(rest, []byte(p))
			}
			k := c.Key(parts[0], rest...)
			if k != c.Key(parts[0], rest...) {
				t.Errorf("%s: the key of %q is another each time", name, parts)
			}
			if other, twice := seen[k]; twice {
				t.Errorf("%s: %q and %s have one key", name, parts, other)
			}
			seen[k] = fmt.Sprintf("%q", parts)
		}
	}
	if a, b := newCache(t, Options{}), newCache(t, Options{}); a.Key("t") == b.Key("t") {
		t.Error("two processes without a key of their own name alike")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	cfg := config.Default().Cache
	cfg.MemoryMB = 1
	c := newCache(t, Options{Config: cfg})
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 2000 {
				c.Put(c.Key("t", []byte(strconv.Itoa(w*10000+i))), make([]byte, 4000))
			}
		})
	}
	all.Wait()
	c.memory.CleanUp()
	if s := c.Stats(); s.Bytes > 1<<20 || s.Bytes < 1<<19 || s.Most != 1<<20 {
		t.Errorf("%+v", s)
	}
	k := c.Key("t", []byte("large"))
	c.Put(k, make([]byte, maxPayload+1))
	if c.Find(t.Context(), k) != nil || c.Stats().Counts["rejected_too_large"] != 1 {
		t.Errorf("an answer that is too large: %+v", c.Stats())
	}
	cfg.Answers = "off"
	c.Apply(cfg)
	if s := c.Stats(); s.On || s.Bytes != 0 {
		t.Errorf("switched off: %+v", s)
	}
}

func TestFlights(t *testing.T) {
	c := newCache(t, Options{})
	k := c.Key("t", []byte("a"))
	var running, most atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			h, err := c.Do(t.Context(), k, func() (Computed, error) {
				most.Store(max(most.Load(), running.Add(1)))
				defer running.Add(-1)
				time.Sleep(10 * time.Millisecond)
				return Computed{Payload: []byte("x"), Keep: true}, nil
			})
			if err != nil || h != nil && string(h.Payload) != "x" {
				t.Errorf("%+v %v", h, err)
			}
		})
	}
	all.Wait()
	if most.Load() != 1 || c.Stats().Counts["stored"] != 1 {
		t.Errorf("%d computed at once, %+v", most.Load(), c.Stats())
	}
	if _, err := c.Do(t.Context(), c.Key("t", []byte("b")), func() (Computed, error) { return Computed{}, errors.New("no") }); err == nil || len(c.flights) != 0 {
		t.Errorf("%v, %d flights are left", err, len(c.flights))
	}
}

// Records in Redis that are not whole, not of this key, this tenant or this time are misses: S33. PIMOE_MUTATIONS says how
// many changes are tried.
func TestMutatedRecordsAreMisses(t *testing.T) {
	times := 20_000
	if n, err := strconv.Atoi(os.Getenv("PIMOE_MUTATIONS")); err == nil {
		times = n
	}
	store, now := newMemory(), newClock()
	box := newBox(t)
	c := newCache(t, Options{Store: store, Box: box, Now: now.now})
	reader := &shared{c: c, store: store}
	keys := []Key{c.Key("red", []byte("a")), c.Key("red", []byte("b")), c.Key("blue", []byte("a"))}
	records := map[Key][]byte{}
	for i, k := range keys {
		c.Put(k, []byte(fmt.Sprintf("answer %d of %s", i, k.tenant)))
		place := <-store.set
		records[k], _ = store.Get(t.Context(), place)
	}
	want := func(k Key) string {
		for i := range keys {
			if keys[i] == k {
				return fmt.Sprintf("answer %d of %s", i, k.tenant)
			}
		}
		return ""
	}
	rng := rand.New(rand.NewPCG(1, 2))
	accepted, untouched := 0, 0
	for range times {
		k := keys[rng.IntN(len(keys))]
		was := records[k]
		b := mutate(rng, was, records[keys[rng.IntN(len(keys))]])
		store.mu.Lock()
		store.values[place(k)] = b
		store.mu.Unlock()
		r := reader.get(t.Context(), k)
		if r == nil {
			continue
		}
		accepted++
		if bytes.Equal(b, was) {
			untouched++
		}
		if string(r.payload) != want(k) {
			t.Fatalf("%x is taken for %q, as %q", b, want(k), r.payload)
		}
	}
	if accepted != untouched || untouched == 0 {
		t.Errorf("%d of %d changed records were taken, %d of them were as they had been", accepted, times, untouched)
	}
	t.Logf("%d mutations, %d were no change, 0 wrong answers", times, untouched)

	k := keys[0]
	put := func(b []byte) *record {
		store.mu.Lock()
		store.values[place(k)] = b
		store.mu.Unlock()
		return reader.get(t.Context(), k)
	}
	forged := record{key: k, made: now.now(), expires: now.now().Add(time.Minute), payload: []byte("forged")}
	for name, b := range map[string][]byte{
		"another tenant's, resealed by who has no key": (*seal.Box)(nil).Seal(purpose, bound(k), forged.append(nil)),
		"of another key file":                          newBox(t).Seal(purpose, bound(k), forged.append(nil)),
		"of another purpose":                           box.Seal("jobs.result", bound(k), forged.append(nil)),
		"of a format to come":                          box.Seal(purpose, bound(k), append([]byte("PMC\x02"), forged.append(nil)[4:]...)),
		"with another key inside":                      box.Seal(purpose, bound(k), (&record{key: keys[1], made: forged.made, expires: forged.expires}).append(nil)),
		"with another tenant inside":                   box.Seal(purpose, bound(k), (&record{key: Key{k.sum, "blue"}, made: forged.made, expires: forged.expires}).append(nil)),
		"nothing":                                      {}, "plain": forged.append(nil),
	} {
		if r := put(b); r != nil {
			t.Errorf("a record %s is taken: %q", name, r.payload)
		}
	}
	if r := put(records[k]); r == nil {
		t.Error("the record itself is not taken")
	}
	now.advance(config.Default().Cache.TTL)
	if r := put(records[k]); r != nil {
		t.Error("a record is taken when its time is over, because it is still in Redis")
	}
}

// mutate changes a record in one of the ways in which storage and attackers do; other is another valid record.
func mutate(rng *rand.Rand, was, other []byte) []byte {
	b := bytes.Clone(was)
	at := rng.IntN(len(b))
	switch rng.IntN(8) {
	case 0: // one bit
		b[at] ^= 1 << rng.IntN(8)
	case 1: // some bytes
		for range 1 + rng.IntN(8) {
			b[rng.IntN(len(b))] = byte(rng.Uint32())
		}
	case 2: // cut
		b = b[:at]
	case 3: // longer
		b = append(b, was[at:]...)
	case 4: // the begin of one and the end of another
		at = min(at, len(other))
		b = append(b[:at], other[at:]...)
	case 5: // another one whole
		b = bytes.Clone(other)
	case 6: // a part is gone
		end := at + rng.IntN(len(b)-at)
		b = append(b[:at], b[end:]...)
	case 7: // two parts change places
		b = append(bytes.Clone(b[at:]), b[:at]...)
	}
	return b
}

func TestSharedNeedsAKey(t *testing.T) {
	if _, err := New(Options{Config: config.Default().Cache, Store: newMemory(), Metrics: metrics.New(), Now: time.Now}); err == nil {
		t.Error("records that everybody can write are taken")
	}
}

func FuzzRecord(f *testing.F) {
	k := Key{sum: [keySize]byte{1, 2}, tenant: "red"}
	now := newClock().now()
	f.Add((&record{key: k, made: now, expires: now.Add(time.Hour), payload: []byte("answer")}).append(nil))
	f.Add((&record{made: now, expires: now.Add(1)}).append(nil))
	f.Add([]byte("PMC\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		if again := r.append(nil); !bytes.Equal(again, b) {
			t.Errorf("%x is read and written as %x", b, again)
		}
		if len(r.payload) > maxPayload || len(r.key.tenant) > maxTenant || !r.expires.After(r.made) {
			t.Errorf("%+v", r)
		}
	})
}
