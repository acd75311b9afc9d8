package acceptance

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/server/access"
)

// canary is a word that no model writes by itself: the tenant's number and eight random letters.
var canary = regexp.MustCompile(`canary-[0-9]{2}-[A-Z2-7]{8}`)

// caller is one tenant with requests of its own, and what it has been told.
type caller struct {
	name, key, canary string
	client            *http.Client
	answers           map[string]string // by the body of the request
	rng               *mathrand.Rand
	variety           int // of requests, of each kind
}

// TestTenantsNeverMeet: 64 tenants send requests with words of their own through one server that keeps answers, some of them
// go away in the middle, and expert processes are killed. No answer has the word of another tenant, the same request has
// the same answer each time, and a kept answer is never another tenant's: S13. PIMOE_TENANT_REQUESTS is how many requests.
func TestTenantsNeverMeet(t *testing.T) {
	const tenants = 64
	total := rounds("PIMOE_TENANT_REQUESTS", 1000)
	store := home(t)
	file := access.NewKeyFile(filepath.Join(store, "keys.json"), time.Now)
	var callers []*caller
	for i := range tenants {
		c := &caller{name: fmt.Sprintf("tenant-%02d", i), canary: fmt.Sprintf("canary-%02d-%s", i, rand.Text()[:8]), client: &http.Client{}, answers: map[string]string{}, rng: mathrand.New(mathrand.NewPCG(1, uint64(i))),
			variety: max(6, total/tenants/8)} // so that not nearly all come out of the cache
		_, key, err := file.Create(access.Template{Name: c.name, Tenant: c.name, Role: access.User})
		if err != nil {
			t.Fatal(err)
		}
		c.key = key
		callers = append(callers, c)
	}
	p := launch(t, store, "--set", "log.level=warn", "--set", "cache.answers=on", "--set", "limits.max_concurrent_requests=64", "--set", "limits.request_timeout=2m")
	p.ready(t)

	ctx, stop := context.WithCancel(t.Context())
	var killing, calling sync.WaitGroup
	var killed, asked, left, hits atomic.Int64
	killing.Go(func() { killExperts(ctx, p.admin, &killed) })
	for _, c := range callers {
		calling.Go(func() {
			defer c.client.CloseIdleConnections()
			for asked.Add(1) <= int64(total) {
				hit, gone, err := c.ask(ctx, p.url)
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
					return
				}
				if hit {
					hits.Add(1)
				}
				if gone {
					left.Add(1)
				}
			}
		})
	}
	calling.Wait()
	stop()
	killing.Wait()
	t.Logf("%d requests of %d tenants, %d gone in the middle, %d kept answers, %d kills, 0 foreign words", total, tenants, left.Load(), hits.Load(), killed.Load())
	if hits.Load() == 0 || left.Load() == 0 || killed.Load() == 0 {
		t.Errorf("%d kept answers, %d requests gone, %d kills: one of them was not tried", hits.Load(), left.Load(), killed.Load())
	}
}

// ask sends one of the caller's requests and judges what comes back.
func (c *caller) ask(ctx context.Context, url string) (hit, gone bool, err error) {
	path, body, common := c.request()
	if !common && c.rng.IntN(6) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(c.rng.IntN(12000))*time.Microsecond)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+path, strings.NewReader(body))
	if err != nil {
		return false, false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+c.key)
	resp, err := c.client.Do(req)
	if err != nil {
		return false, true, ignoreGone(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return false, true, ignoreGone(err)
	}
	for _, word := range canary.FindAllString(fmt.Sprint(resp.Header)+string(b), -1) {
		if word != c.canary {
			return false, false, fmt.Errorf("the word %s of somebody else: %s", word, b)
		}
	}
	if resp.StatusCode != http.StatusOK {
		return false, false, fmt.Errorf("%s %s: %d %s", path, body, resp.StatusCode, b)
	}
	text, err := said(b)
	if err != nil {
		return false, false, err
	}
	if !common && strings.Contains(body, `"echo":true`) && !strings.Contains(text, c.canary) {
		return false, false, fmt.Errorf("the echo of %s lacks the own word: %s", body, b)
	}
	before, known := c.answers[body]
	hit = resp.Header.Get("X-Cache") == "hit"
	switch {
	case known && before != text:
		return hit, false, fmt.Errorf("%s has the answer %q and had %q", body, text, before)
	case common && hit && !known:
		return hit, false, fmt.Errorf("%s comes out of the cache although this tenant has no answer to it yet", body)
	}
	c.answers[body] = text
	return hit, false, nil
}

// request is one of at least two dozen: with the caller's word, echoed or not, or the same for all tenants. A common one is
// never cut off, so that its first whole answer is known to be the first.
func (c *caller) request() (path, body string, common bool) {
	n := c.rng.IntN(c.variety)
	switch c.rng.IntN(4) {
	case 0:
		return "/v1/completions", fmt.Sprintf(`{"model":"pimoe-tiny","prompt":"%s %d","temperature":0,"max_tokens":3,"echo":true}`, c.canary, n), false
	case 1:
		return "/v1/completions", fmt.Sprintf(`{"model":"pimoe-tiny","prompt":"%s said %d","max_tokens":3,"seed":%d}`, c.canary, n, n), false
	case 2:
		return "/v1/chat/completions", fmt.Sprintf(`{"model":"pimoe-tiny","messages":[{"role":"user","content":"I am %s, %d"}],"temperature":0,"max_tokens":3}`, c.canary, n), false
	}
	return "/v1/completions", fmt.Sprintf(`{"model":"pimoe-tiny","prompt":"Once upon a time %d","temperature":0,"max_tokens":3,"echo":true}`, n), true
}

func ignoreGone(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// said is the text of an answer of either route.
func said(b []byte) (string, error) {
	var v struct {
		Choices []struct {
			Text    string
			Message struct{ Content string }
		}
	}
	if err := json.Unmarshal(b, &v); err != nil || len(v.Choices) != 1 {
		return "", fmt.Errorf("no answer: %v: %s", err, b)
	}
	return v.Choices[0].Text + v.Choices[0].Message.Content, nil
}

// killExperts kills an expert process of the server three times a second until ctx ends.
func killExperts(ctx context.Context, admin string, killed *atomic.Int64) {
	rng := mathrand.New(mathrand.NewPCG(5, 5))
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(300 * time.Millisecond):
		}
		var v struct {
			Experts []struct {
				PID   int
				State string
			}
		}
		resp, err := http.Get(admin + "/admin/experts")
		if err != nil {
			continue
		}
		err = json.NewDecoder(resp.Body).Decode(&v)
		resp.Body.Close()
		if err != nil || len(v.Experts) == 0 {
			continue
		}
		if e := v.Experts[rng.IntN(len(v.Experts))]; e.State == "ready" && e.PID > 1 && syscall.Kill(e.PID, syscall.SIGKILL) == nil {
			killed.Add(1)
		}
	}
}
