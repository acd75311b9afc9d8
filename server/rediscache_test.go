package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/redisdb/redistest"
)

// oracle is an engine whose answer can be told in advance: a digest of version, tenant and prompt. It takes its time.
type oracle struct {
	*fakeEngine
	version atomic.Int64
	takes   time.Duration
}

func (o *oracle) answer(version int64, tenant string, prompt []int32) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %q %v", version, tenant, prompt))
	return hex.EncodeToString(sum[:])
}

func (o *oracle) Submit(ctx context.Context, r engine.Request) (engine.Stream, error) {
	v := o.version.Load()
	f := &fakeEngine{script: func(ctx context.Context, n int) (engine.Token, error) {
		select {
		case <-time.After(o.takes):
		case <-ctx.Done():
			return engine.Token{}, context.Cause(ctx)
		}
		return engine.Token{ID: 1, Text: o.answer(v, r.Tenant, r.Prompt), HasToken: true, Finish: engine.FinishStop}, nil
	}}
	s, err := f.Submit(ctx, r)
	return &versionedStream{Stream: s, version: fmt.Sprint(v)}, err
}

// redisRig is two hosts that share a Redis behind a proxy, and tenants that ask them.
type redisRig struct {
	t      *testing.T
	oracle *oracle
	hosts  []*running
	server *redistest.Server
	proxy  *redistest.Proxy
	keys   map[string]string // the credential of each tenant
	client *http.Client
	asked  atomic.Int64
}

var rigTenants = []string{"red", "blue", "green", "white"}

func newRedisRig(t *testing.T, change func(*config.Config)) *redisRig {
	t.Helper()
	file, keys := tenantKeys(t, rigTenants...)
	g := &redisRig{t: t, oracle: &oracle{fakeEngine: &fakeEngine{}, takes: 2 * time.Millisecond}, keys: keys, server: redistest.Start(t)}
	g.proxy = redistest.NewProxy(t, g.server.Addr, 1)
	cfg := sealedConfig(t, g.proxy.Addr)
	cfg.Auth.KeysFile, cfg.Cache.MemoryMB, cfg.Redis.Timeout = file, 1, 5*time.Millisecond
	cfg.Cache.TTL = 2 * time.Second // so that answers have to be found and kept all the time
	if change != nil {
		change(&cfg)
	}
	for range 2 {
		svc := fakeService(g.oracle.fakeEngine)
		svc.engine = g.oracle
		svc.version = func() (string, string) { return "fixed", fmt.Sprint(g.oracle.version.Load()) }
		g.hosts = append(g.hosts, serveConfig(t, svc, cfg, nil))
	}
	g.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}
	t.Cleanup(g.client.CloseIdleConnections)
	return g
}

func (g *redisRig) found() {
	g.t.Helper()
	eventually(g.t, 20*time.Second, "redis is found", func() bool { return g.hosts[0].redis.Healthy() && g.hosts[1].redis.Healthy() })
}

// ask sends one request; its prompt is one of many, some of them asked often. A wrong or failed answer is an error.
func (g *redisRig) ask(rng *rand.Rand, host *running) (hit bool, took time.Duration, err error) {
	tenant := rigTenants[rng.IntN(len(rigTenants))]
	n := int(rng.ExpFloat64() * 60)
	prompt := []int32{int32(n % 26), int32(n / 26 % 26), int32(n / 26 / 26 % 26)}
	body := fmt.Sprintf(`{"model":"fake","prompt":[%d,%d,%d],"temperature":0}`, prompt[0], prompt[1], prompt[2])
	req, err := http.NewRequest(http.MethodPost, host.url+"/v1/completions", strings.NewReader(body))
	if err != nil {
		return false, 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", g.keys[tenant])
	before, began := g.oracle.version.Load(), time.Now()
	resp, err := g.client.Do(req)
	if err != nil {
		return false, 0, err
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	took = time.Since(began)
	if err != nil || resp.StatusCode != http.StatusOK {
		return false, took, fmt.Errorf("%d %v: %s", resp.StatusCode, err, b)
	}
	g.asked.Add(1)
	for v := before; v <= g.oracle.version.Load(); v++ {
		if strings.Contains(string(b), `"text":"`+g.oracle.answer(v, tenant, prompt)+`"`) {
			return resp.Header.Get("X-Cache") == "hit", took, nil
		}
	}
	return false, took, fmt.Errorf("wrong answer for %s %v at version %d: %s", tenant, prompt, before, b)
}

// load asks for a while from eight clients, each with a pause between two requests, and returns the time at 99 percent.
func (g *redisRig) load(name string, during time.Duration) (p99 time.Duration) {
	g.t.Helper()
	var mu sync.Mutex
	var took []time.Duration
	hits, failed := 0, 0
	var clients sync.WaitGroup
	end := time.Now().Add(during)
	for c := range 8 {
		clients.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(c), uint64(len(name))))
			for time.Now().Before(end) {
				hit, d, err := g.ask(rng, g.hosts[rng.IntN(2)])
				mu.Lock()
				took = append(took, d)
				if hit {
					hits++
				}
				if err != nil {
					if failed++; failed <= 3 {
						g.t.Errorf("%s: %v", name, err)
					}
				}
				mu.Unlock()
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	clients.Wait()
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))] }
	g.t.Logf("%-34s %6d requests, %5.1f %% hits, %d failed or wrong, p50 %6.2f ms, p99 %6.2f ms", name, len(took), 100*float64(hits)/float64(len(took)), failed,
		at(.5).Seconds()*1e3, at(.99).Seconds()*1e3)
	return at(.99)
}

// TestRedisFaults: whatever happens to Redis under load, no request fails, no answer is wrong, and none waits: X12, X13.
// PIMOE_REDIS_CHAOS is how long each fault lasts; with it the added time at 99 percent is judged, too.
func TestRedisFaults(t *testing.T) {
	during, judge := 250*time.Millisecond, false
	if d, err := time.ParseDuration(os.Getenv("PIMOE_REDIS_CHAOS")); err == nil {
		during, judge = d, true
	}
	alone := newRedisRig(t, func(c *config.Config) { c.Redis.URL, c.Cache.Shared = "", "off" })
	alone.load("to warm up", 200*time.Millisecond)
	base := alone.load("no Redis at all", during)
	g := newRedisRig(t, nil)
	g.found()
	g.load("Redis as it should be", during)
	for _, f := range []struct {
		name  string
		begin func()
		end   func()
	}{
		{"the port is closed", func() { g.proxy.Set(redistest.Fault{Refuse: true}) }, nil},
		{"the process is killed", g.server.Kill, func() { g.server.Restart(t) }},
		{"the process is stopped", g.server.Freeze, g.server.Thaw},
		{"nothing travels", func() { g.proxy.Set(redistest.Fault{Freeze: true}) }, nil},
		{"2 s later", func() { g.proxy.Set(redistest.Fault{Delay: 2 * time.Second}) }, nil},
		{"4 ms later", func() { g.proxy.Set(redistest.Fault{Delay: 4 * time.Millisecond}) }, nil},
		{"one byte of 100 flips", func() { g.proxy.Set(redistest.Fault{Flip: .01}) }, nil},
		{"one byte of 5,000 flips", func() { g.proxy.Set(redistest.Fault{Flip: .0002}) }, nil},
		{"cut after 2,000 bytes", func() { g.proxy.Set(redistest.Fault{Cut: 2000}) }, nil},
		{"replies byte by byte", func() { g.proxy.Set(redistest.Fault{Split: true}) }, nil},
		{"foreign replies", func() { g.proxy.Set(redistest.Fault{Answer: []byte("$3\r\nred\r\n")}) }, nil},
		{"replies of gigabytes", func() { g.proxy.Set(redistest.Fault{Answer: []byte("$2147483647\r\n")}) }, nil},
	} {
		f.begin()
		p99 := g.load(f.name, during)
		if added := p99 - base; judge && added > 5*time.Millisecond {
			t.Errorf("%s: p99 %s, %s more than without Redis", f.name, p99, added)
		}
		if f.end != nil {
			f.end()
		}
		g.proxy.Set(redistest.Fault{})
		g.found()
	}
	for command, n := range g.proxy.Commands() {
		switch command {
		case "HELLO", "PING", "GET", "SET":
		default:
			t.Errorf("command %q came through %d times", command, n)
		}
	}
	t.Logf("%d requests in all", g.asked.Load())
}

// TestRedisLies: somebody who can write to Redis puts records of other tenants and other versions under keys, replays old
// ones after their time and changes bytes; nobody gets a wrong answer: S33.
func TestRedisLies(t *testing.T) {
	during := time.Second
	if d, err := time.ParseDuration(os.Getenv("PIMOE_REDIS_CHAOS")); err == nil {
		during = d
	}
	g := newRedisRig(t, func(c *config.Config) { c.Cache.TTL, c.Redis.Timeout = time.Second, 50*time.Millisecond })
	g.found()
	liar, err := redis.DialContext(t.Context(), "tcp", g.server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer liar.Close()
	ctx, stop := context.WithCancel(t.Context())
	var lying sync.WaitGroup
	lying.Go(func() { lie(ctx, liar, &g.oracle.version) })
	seen := map[string]int64{}
	for began := time.Now(); seen["rejected_not_ours"] == 0 && time.Since(began) < 20*during; { // a busy machine asks little in a second
		g.load("lies", during)
		clear(seen)
		for _, h := range g.hosts {
			for name, n := range h.answers.Stats().Counts {
				seen[name] += n
			}
		}
	}
	stop()
	lying.Wait()
	if seen["rejected_not_ours"] == 0 {
		t.Errorf("no lie was met: %v", seen)
	}
	t.Logf("%d requests; %v", g.asked.Load(), seen)
}

// lie changes what is in Redis, and now and then the version of what computes, until ctx ends.
func lie(ctx context.Context, c redis.Conn, version *atomic.Int64) {
	rng := rand.New(rand.NewPCG(3, 3))
	var kept []string // records of before
	change := time.NewTicker(300 * time.Millisecond)
	defer change.Stop()
	for ctx.Err() == nil {
		select {
		case <-change.C:
			version.Add(1)
		default:
		}
		key, err := redis.String(c.Do("RANDOMKEY"))
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		value, err := redis.Bytes(c.Do("GET", key))
		if err != nil || len(value) == 0 {
			continue
		}
		kept = append(kept, string(value))
		kept = kept[max(len(kept)-5000, 0):]
		switch rng.IntN(3) {
		case 0:
			value[rng.IntN(len(value))] ^= 1 << rng.IntN(8)
		case 1:
			value = value[:rng.IntN(len(value))]
		default:
			value = []byte(kept[rng.IntN(len(kept))])
		}
		c.Do("SET", key, value, "EX", 60)
		time.Sleep(time.Millisecond)
	}
}
