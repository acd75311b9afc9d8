package idempotency

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/durable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, path string, l config.Idempotency, now func() time.Time) *Keys {
	t.Helper()
	db, err := durable.Open(durable.Options{Path: path, Parts: []durable.Part{Part()}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return New(Options{DB: db, Limits: l, Now: now})
}

func fresh(t testing.TB) string { return filepath.Join(t.TempDir(), "state.db") }

func limits() config.Idempotency { return config.Default().Idempotency }

// keep claims a key and keeps an answer for it.
func keep(t testing.TB, k *Keys, tenant, key, request, body string) error {
	t.Helper()
	c, a, err := k.Claim(t.Context(), tenant, key, Print([]byte(request)))
	if err != nil {
		return err
	}
	if a != nil {
		t.Fatalf("%s of %s is kept already: %q", key, tenant, a.Body)
	}
	defer c.Release()
	return c.Done(t.Context(), Answer{Status: 200, ContentType: "text/plain", Header: map[string]string{"A": "b"}, Whole: true, Body: []byte(body)})
}

// kept is the body that is kept for a key.
func kept(t testing.TB, k *Keys, tenant, key, request string) (string, error) {
	t.Helper()
	c, a, err := k.Claim(t.Context(), tenant, key, Print([]byte(request)))
	if c != nil {
		c.Release()
	}
	if a == nil {
		return "", err
	}
	if a.Status != 200 || a.ContentType != "text/plain" || a.Header["A"] != "b" {
		t.Errorf("%+v", a)
	}
	return string(a.Body), err
}

func TestAnswersAreKept(t *testing.T) {
	path := fresh(t)
	k := open(t, path, limits(), time.Now)
	if err := keep(t, k, "acme", "k1", "one", "answer one"); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		if got, err := kept(t, k, "acme", "k1", "one"); got != "answer one" || err != nil {
			t.Errorf("the same request: %q, %v", got, err)
		}
		if got, err := kept(t, k, "acme", "k1", "two"); got != "" || !errors.Is(err, ErrReused) {
			t.Errorf("another request: %q, %v", got, err)
		}
		for _, other := range [][2]string{{"acme", "k2"}, {"acme2", "k1"}, {"acm", "ek1"}} {
			if got, err := kept(t, k, other[0], other[1], "one"); got != "" || err != nil {
				t.Errorf("%v: %q, %v", other, got, err)
			}
		}
		if n, bytes, under := k.Size(); n != 1 || bytes != headBytes+10 || under != 0 {
			t.Errorf("%d keys, %d bytes, %d under way", n, bytes, under)
		}
	}
	check()
	if err := k.DB.Close(); err != nil {
		t.Fatal(err)
	}
	k = open(t, path, limits(), time.Now)
	check()
}

func TestClaims(t *testing.T) {
	k := open(t, fresh(t), limits(), time.Now)
	c, _, err := k.Claim(t.Context(), "acme", "k", Print([]byte("one")))
	if err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]error{"one": ErrInUse, "two": ErrReused} {
		if _, err := kept(t, k, "acme", "k", request); !errors.Is(err, want) {
			t.Errorf("%s while the first is under way: %v", request, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := k.Idle(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("idle with a claim: %v", err)
	}
	c.Release() // without an answer
	c.Release()
	if err := k.Idle(t.Context()); err != nil {
		t.Error(err)
	}
	if err := keep(t, k, "acme", "k", "two", "answer"); err != nil {
		t.Errorf("after a request that came to nothing: %v", err)
	}
	c, _, err = k.Claim(t.Context(), "acme", "k2", Print(nil))
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	if err := k.DB.Update(t.Context(), func(tx *durable.Tx) error { return errors.Join(c.Keep(tx, Answer{Status: 200}), boom) }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	c.Dropped()
	c.Release()
	if n, _, _ := k.Size(); n != 1 {
		t.Errorf("an answer that was not written is counted: %d", n)
	}
	if err := keep(t, k, "acme", "k2", "other", "answer"); err != nil {
		t.Error(err)
	}
}

// TestOnce: however many ask at once and again, each key is computed once and all get the same bytes.
func TestOnce(t *testing.T) {
	k := open(t, fresh(t), limits(), time.Now)
	const keys, clients = 20, 16
	var computed [keys]atomic.Int64
	var all sync.WaitGroup
	for client := range clients {
		all.Go(func() {
			for i := range keys {
				key := fmt.Sprint((i + client) % keys)
				n := (i + client) % keys
				for {
					c, a, err := k.Claim(t.Context(), "acme", key, Print([]byte(key)))
					if errors.Is(err, ErrInUse) {
						runtime.Gosched()
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					if a == nil {
						computed[n].Add(1)
						if err := c.Done(t.Context(), Answer{Status: 200, Whole: true, Body: []byte("answer " + key)}); err != nil {
							t.Error(err)
						}
						c.Release()
						continue
					}
					if string(a.Body) != "answer "+key {
						t.Errorf("%q for %s", a.Body, key)
					}
					break
				}
			}
		})
	}
	all.Wait()
	for i := range computed {
		if n := computed[i].Load(); n != 1 {
			t.Errorf("key %d was computed %d times", i, n)
		}
	}
}

func TestRetentionAndLimits(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	l := config.Idempotency{Retention: time.Hour, MaxPerTenant: 3, MaxMBPerTenant: 1, MaxMB: 2}
	k := open(t, fresh(t), l, func() time.Time { return now })
	for i := range 3 {
		if err := keep(t, k, "acme", fmt.Sprint(i), "r", "a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := keep(t, k, "acme", "3", "r", "a"); !errors.Is(err, ErrFull) {
		t.Errorf("one key too many: %v", err)
	}
	if got, err := kept(t, k, "acme", "0", "r"); got != "a" || err != nil {
		t.Errorf("a full store gives %q, %v", got, err)
	}
	if err := keep(t, k, "b", "large", "r", strings.Repeat("x", 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := keep(t, k, "b", "more", "r", "a"); !errors.Is(err, ErrFull) {
		t.Errorf("more bytes than a tenant may have: %v", err)
	}
	if err := keep(t, k, "c", "large", "r", strings.Repeat("x", 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := keep(t, k, "d", "more", "r", "a"); !errors.Is(err, ErrFull) {
		t.Errorf("more bytes than all may have: %v", err)
	}
	now = now.Add(time.Hour)
	if err := keep(t, k, "acme", "0", "another request", "b"); err != nil { // its time is up, although nobody has swept
		t.Errorf("%v", err)
	}
	if err := k.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, bytes, _ := k.Size(); n != 1 || bytes != headBytes+1 || len(k.tenants) != 1 {
		t.Errorf("after a sweep %d keys, %d bytes, tenants %v", n, bytes, k.tenants)
	}
	if got, err := kept(t, k, "acme", "0", "another request"); got != "b" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := kept(t, k, "acme", "1", "r"); got != "" || err != nil {
		t.Errorf("an old answer: %q, %v", got, err)
	}
}

// TestLargeAnswers: that one was given is kept, so that it is not computed again.
func TestLargeAnswers(t *testing.T) {
	k := open(t, fresh(t), limits(), time.Now)
	c, _, err := k.Claim(t.Context(), "acme", "k", Print(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Done(t.Context(), Answer{Status: 200, Whole: true, Body: make([]byte, MaxAnswer+1)}); err != nil {
		t.Fatal(err)
	}
	c.Release()
	_, a, err := k.Claim(t.Context(), "acme", "k", Print(nil))
	if err != nil || a == nil || a.Whole || len(a.Body) != 0 {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestPrint(t *testing.T) {
	seen := map[string]string{}
	for _, parts := range [][]string{{}, {""}, {"", ""}, {"a", "bc"}, {"ab", "c"}, {"abc"}, {"1:a"}, {"a", ""}} {
		var list [][]byte
		for _, p := range parts {
			list = append(list, []byte(p))
		}
		print := string(Print(list...))
		if other, is := seen[print]; is {
			t.Errorf("%q and %s have the same print", parts, other)
		}
		seen[print] = fmt.Sprintf("%q", parts)
	}
}

func FuzzAnswer(f *testing.F) {
	good, _ := json.Marshal(Answer{Print: Print(), Status: 200, Bytes: headBytes})
	f.Add(good)
	f.Add([]byte(`{"Print":"","Status":99}`))
	f.Fuzz(func(t *testing.T, record []byte) {
		a, err := parseAnswer(record)
		if err != nil {
			return
		}
		again, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := parseAnswer(again); err != nil || second.Status != a.Status || second.Bytes != a.Bytes {
			t.Errorf("%s became %s: %v", record, again, err)
		}
	})
}
