package limit

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/redisdb"
	"github.com/pimoe/pimoe/server/redisdb/redistest"
)

// node is one host: a Limiter with buckets in Redis behind a proxy of its own.
type node struct {
	*Limiter
	db    *redisdb.DB
	proxy *redistest.Proxy
}

// patience is the time of a call in these tests: a busy machine stops a process for longer than the 5 ms of a host.
const patience = 500 * time.Millisecond

func newNode(t *testing.T, addr string, timeout time.Duration, rules []Rule) node {
	t.Helper()
	p := redistest.NewProxy(t, addr, 1)
	cfg := config.Default().Redis
	cfg.URL, cfg.Timeout = "redis://"+p.Addr, timeout
	db, err := redisdb.Open(redisdb.Options{Config: cfg, Metrics: metrics.New(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	n := node{New(rules, Options{Shared: NewRedis(db)}), db, p}
	n.healthy(t, true)
	return n
}

// healthy waits until Redis is, or is not, asked.
func (n node) healthy(t *testing.T, want bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); n.db.Healthy() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("healthy is not %v after 20 s", want)
		}
	}
}

// taken is how many of so many requests at once are admitted by nodes in turn.
func taken(nodes []node, requests int) (n int) {
	for i := range requests {
		if g, refused := admit(nodes[i%len(nodes)].Limiter, ann, 0); refused == nil {
			g.Close(context.Background(), 0)
			n++
		}
	}
	return n
}

// Two hosts share one bucket. While Redis refuses, hangs, lies or loses what it has, each has at most a bucket of its own.
func TestHostsShareBuckets(t *testing.T) {
	const limit = 60 // one a second fills up
	server := redistest.Start(t)
	rules := []Rule{{Requests: limit}}
	nodes := []node{newNode(t, server.Addr, patience, rules), newNode(t, server.Addr, patience, rules)}
	began := time.Now()
	filled := func() int { return int(time.Since(began).Seconds()) + 1 }
	if n := taken(nodes, 4*limit); n < limit || n > limit+filled() {
		t.Errorf("%d admitted by two hosts, want %d", n, limit)
	}
	for _, f := range []redistest.Fault{{Refuse: true}, {Answer: []byte(":0\r\n")}, {Answer: []byte("*2\r\n:0\r\n:0\r\n")}, {Flip: .05}, {Cut: 30}} {
		fresh := []node{newNode(t, server.Addr, patience, rules), newNode(t, server.Addr, patience, rules)}
		began := time.Now()
		for _, n := range fresh {
			n.proxy.Set(f)
		}
		n := taken(fresh, 6*limit)
		if most := 2 * (limit + int(time.Since(began).Seconds()) + 1); n > most {
			t.Errorf("%+v: %d admitted by two hosts, want at most a bucket of each, %d", f, n, most)
		}
	}
}

// A Redis that is slow is waited for as long as a call may take, and then no more.
func TestSlowRedis(t *testing.T) {
	server := redistest.Start(t)
	n := newNode(t, server.Addr, 20*time.Millisecond, []Rule{{Requests: MostLimit}})
	n.proxy.Set(redistest.Fault{Delay: 2 * time.Second})
	began := time.Now()
	if got := taken([]node{n}, 100); got != 100 {
		t.Errorf("%d of 100 admitted", got)
	}
	if took := time.Since(began); took > time.Second { // three calls until the breaker opens
		t.Errorf("100 requests took %s", took)
	}
	n.proxy.Set(redistest.Fault{})
	n.healthy(t, true)
}

// What is in Redis may be anything: it is a bucket that can be true, or none.
func TestGarbageInRedis(t *testing.T) {
	server := redistest.Start(t)
	n := newNode(t, server.Addr, patience, []Rule{{Tokens: 1000}})
	direct, err := redis.DialContext(t.Context(), "tcp", server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	g, _ := admit(n.Limiter, ann, 1)
	g.Close(t.Context(), 1)
	keys, err := redis.Strings(direct.Do("KEYS", "*limit:*"))
	if err != nil || len(keys) != 1 || strings.Contains(keys[0], "ann") {
		t.Fatalf("%v %v", keys, err)
	}
	rng := rand.New(rand.NewPCG(15, 16))
	for i, value := range []string{"", "nan", "-1", "1e300", "0x10", "inf", "99999999999999999999", "{}", "\x00\xff"} {
		if _, err := direct.Do("SET", keys[0], value); err != nil {
			t.Fatal(err)
		}
		g, refused := admit(n.Limiter, ann, 1+rng.Int64N(3))
		if refused != nil {
			t.Fatalf("value %d: %+v", i, refused)
		}
		g.Close(t.Context(), 1)
	}
	if _, err := direct.Do("DEL", keys[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := direct.Do("LPUSH", keys[0], "a"); err != nil {
		t.Fatal(err)
	}
	if _, refused := admit(n.Limiter, ann, 1); refused != nil {
		t.Error("a list in the place of a bucket:", refused)
	}
	if kind, err := redis.String(direct.Do("TYPE", keys[0])); kind != "string" {
		t.Errorf("it is still a %s: %v", kind, err)
	}
	if ms, err := redis.Int64(direct.Do("PTTL", keys[0])); ms <= 0 || ms > Period.Milliseconds() {
		t.Errorf("a bucket stays for %d ms: %v", ms, err)
	}
}

// The two implementations of a bucket agree, as far as their clocks do.
func TestRedisEqualsLocal(t *testing.T) {
	server := redistest.Start(t)
	n := newNode(t, server.Addr, patience, nil)
	const limit = 6000
	rng := rand.New(rand.NewPCG(17, 18))
	full := time.Now()
	cell := Cell{Name: "x", Kind: Tokens, Limit: limit}
	for i := range 200 {
		cell.N = rng.Int64N(limit / 4)
		took, left, err := n.shared.Take(t.Context(), []Cell{cell})
		now := time.Now()
		if err != nil {
			t.Fatal(err)
		}
		w := wait(full, now, cell.N, limit)
		if d := took - w; d > patience || d < -patience {
			t.Fatalf("step %d: wait %s in Redis, %s here", i, took, w)
		}
		if took == 0 {
			full = move(full, now, cell.N, limit)
		}
		if d := left[0].Reset - debt(full, now); d > patience || d < -patience {
			t.Fatalf("step %d: debt %s in Redis, %s here", i, left[0].Reset, debt(full, now))
		}
		if i%5 == 0 {
			cell.N = -rng.Int64N(limit / 2)
			n.shared.Move(t.Context(), []Cell{cell})
			full = move(full, time.Now(), cell.N, limit)
		}
	}
}
