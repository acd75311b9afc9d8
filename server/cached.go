package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/server/cache"
	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/replay"
	"github.com/pimoe/pimoe/server/seal"
)

// openCache opens Redis and the cache of answers.
func (s *Server) openCache(cfg config.Config) error {
	o := cache.Options{Config: cfg.Cache, Metrics: s.service.metrics, Now: s.clock}
	var err error
	if cfg.Cache.Shared == "redis" {
		if o.Box, err = seal.Load(cfg.Encryption); err != nil {
			return err
		}
		o.Store = s.redis
	}
	s.answers, err = cache.New(o)
	return err
}

func (s *Server) closeCache() {
	if s.answers != nil { // of a New that failed
		s.answers.Close()
	}
}

// kept is an answer as the cache has it: what was generated, and nothing of one request, such as its id.
type kept struct {
	Choices  []openai.Choice
	Usage    openai.Usage
	Programs string
	Version  string // of what computed it

	quality engine.Quality // only exact answers are kept
	record  *replay.Record // of a traced answer, which is not kept
}

// lookup is what the cache may do for one request.
type lookup struct {
	s       *Server
	r       *request
	why     string // it may do nothing, and why; empty = it may
	fresh   bool   // a kept answer is not wanted, but this one may be kept
	maxAge  time.Duration
	key     cache.Key
	version string // of what would compute it now
	hit     *cache.Hit
}

// Why the cache does nothing for a request.
const (
	whyOff     = "off"
	whyAsked   = "request"        // Cache-Control
	whySampled = "sampled"        // the answer would be another one each time
	whyRouting = "load-dependent" // it depends on what else the server does
	whySocket  = "websocket"      // events are numbered, and a resumed answer goes on at one of them
	whyTraced  = "traced"         // a record is of one computation
	whyCanary  = "canary"         // some requests get another version
	whyUnknown = "unknown-version"
)

// lookup decides what the cache may do and makes the key. What shapes the answer is part of the key: tenant, route, tokens
// and settings after all defaults, the build, the model, and the version of experts and router.
func (s *Server) lookup(ctx context.Context, r *request, want *openai.Request, prompts []prompt, kind string) *lookup {
	r.features = featuresOf(want) // an answer that is kept is used, too
	l := &lookup{s: s, r: r, maxAge: -1}
	params := want.Sampling.Params(s.service.defaults, 0)
	noStore := l.directives()
	switch {
	case !s.answers.On():
		l.why = whyOff
		return l
	case noStore:
		l.why = whyAsked
	case want.Trace.Tokens:
		l.why = whyTraced
	case r.numbered != nil:
		l.why = whySocket
	case params.Temperature != 0:
		l.why = whySampled
	case s.service.routing != "":
		l.why = whyRouting
	case s.service.version == nil:
		l.why = whyUnknown
	}
	var fixed string
	if l.why == "" {
		if fixed, l.version = s.service.version(); l.version == "" {
			l.why = whyCanary
		}
	}
	if l.why != "" {
		l.count("bypass")
		return l
	}
	l.key = s.answers.Key(r.principal.Tenant, []byte(kind), canonical(want, prompts, params, s.maxTokens(want)),
		[]byte(buildDigest()), []byte(s.build.Version+" "+s.build.Revision), []byte(s.service.digest), []byte(s.service.class()), []byte(fixed), []byte(l.version))
	return l
}

// directives reads the request's Cache-Control as RFC 9111 has it, and reports no-store. What it does not know it ignores.
func (l *lookup) directives() (noStore bool) {
	for d := range strings.SplitSeq(strings.ToLower(l.r.freshness), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(d), "=")
		switch name {
		case "no-store":
			noStore = true
		case "no-cache":
			l.fresh = true
		case "max-age":
			if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				l.maxAge = time.Duration(n) * time.Second
			}
		}
	}
	return noStore
}

// canonical is a request as its answer depends on it. Fields of the request that this function does not know stay in it,
// so that a new one can't be forgotten.
func canonical(want *openai.Request, prompts []prompt, params sampler.Params, maxTokens int) []byte {
	w := *want
	w.Model, w.Stream, w.IncludeUsage = "", false, false
	w.Messages, w.Kwargs, w.Prompts = nil, nil, nil // their tokens say it all, and the text is there where it is echoed
	w.Sampling.Temperature, w.Sampling.TopP, w.Sampling.MinP, w.Sampling.RepetitionPenalty, w.Sampling.TopK = nil, nil, nil, nil, nil
	type text struct {
		IDs  []int32
		Echo string
		Lead int
	}
	texts := make([]text, len(prompts))
	for i, p := range prompts {
		texts[i] = text{IDs: p.ids, Lead: p.lead}
		if want.Echo {
			texts[i].Echo = p.text
		}
	}
	// Names and numbers, lists and maps with sorted names: equal values give equal bytes, and all of them can be written.
	return mustJSON(map[string]any{"request": w, "prompts": texts, "params": params, "max_tokens": maxTokens})
}

// buildDigest tells hosts of different builds apart: kernels of the trunk, tokenizer and templates are part of it. It reads
// the executable once. Where that can't be read the process is a build of its own.
var buildDigest = sync.OnceValue(func() string {
	path, err := os.Executable()
	if err != nil {
		return rand.Text()
	}
	f, err := os.Open(path)
	if err != nil {
		return rand.Text()
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return rand.Text()
	}
	return hex.EncodeToString(h.Sum(nil))
})

func (l *lookup) count(outcome string) {
	l.s.answers.Count(outcome)
	l.r.cached, _, _ = strings.Cut(outcome, "_")
}

// answer is a kept answer, or a new one.
func (s *Server) answer(ctx context.Context, r *request, want *openai.Request, prompts []prompt, l *lookup) (*kept, error) {
	if l.why != "" || l.fresh || l.maxAge >= 0 {
		if a := l.find(ctx); a != nil {
			return a, nil
		}
		a, err := s.compute(ctx, r, want, prompts)
		if err == nil {
			l.keep(a)
		}
		return a, err
	}
	var made *kept
	hit, err := s.answers.Do(ctx, l.key, func() (c cache.Computed, err error) {
		if made, err = s.compute(ctx, r, want, prompts); err != nil {
			return c, err
		}
		c.Payload, c.Keep = l.payload(made)
		return c, nil
	})
	if hit != nil {
		if a := l.take(hit); a != nil {
			return a, nil
		}
		made, err = s.compute(ctx, r, want, prompts)
	}
	if err == nil {
		l.count("miss")
	}
	return made, err
}

// compute generates. Its error is the request's.
func (s *Server) compute(ctx context.Context, r *request, want *openai.Request, prompts []prompt) (*kept, error) {
	g, err := s.start(ctx, r, want, prompts)
	if err != nil {
		return nil, err
	}
	defer g.close()
	choices, err := g.whole(ctx)
	a := &kept{Choices: choices, Usage: g.usage(), Programs: g.programs(), Version: g.version(), quality: g.quality()}
	r.tokens.prompt, r.tokens.completion = a.Usage.PromptTokens, a.Usage.CompletionTokens
	if err != nil {
		return nil, err
	}
	r.quality = a.quality.Status()
	if g.recorder != nil {
		a.record, err = g.record()
	}
	return a, err
}

// find looks for a kept answer, without waiting for an equal request.
func (l *lookup) find(ctx context.Context) *kept {
	if l.why != "" {
		return nil
	}
	if l.fresh {
		l.count("bypass")
		return nil
	}
	hit := l.s.answers.Find(ctx, l.key)
	if hit == nil || l.maxAge >= 0 && hit.Age >= l.maxAge {
		l.count("miss")
		return nil
	}
	if a := l.take(hit); a != nil {
		return a
	}
	l.count("miss")
	return nil
}

// take reads a kept answer and makes it this request's; nil if it can't be used.
func (l *lookup) take(hit *cache.Hit) *kept {
	a := &kept{}
	if err := json.Unmarshal(hit.Payload, a); err != nil || a.Version != l.version {
		l.s.answers.Rejected("unreadable")
		return nil
	}
	if err := l.s.renameCalls(a.Choices); err != nil {
		return nil
	}
	a.Usage.CachedTokens = a.Usage.PromptTokens // none of them was computed
	l.hit = hit
	l.r.tokens.prompt, l.r.tokens.completion = a.Usage.PromptTokens, a.Usage.CompletionTokens
	l.r.quality = a.quality.Status()
	l.count("hit_" + hit.From)
	return a
}

// renameCalls gives calls of tools new ids: a client may tell answers apart by them.
func (s *Server) renameCalls(choices []openai.Choice) error {
	for i := range choices {
		for j := range choices[i].Calls {
			f, err := s.service.family()
			if err != nil {
				return err
			}
			choices[i].Calls[j].ID = f.newID()
		}
	}
	return nil
}

// payload is an answer for the cache, and whether it may be kept: exact, and computed from its first to its last token by
// the version that the key names, which is still the one that new requests get.
func (l *lookup) payload(a *kept) ([]byte, bool) {
	if l.why != "" {
		return nil, false
	}
	if a.quality.Status() != engine.StatusExact {
		l.s.answers.Rejected("degraded")
		return nil, false
	}
	if _, now := l.s.service.version(); a.Version != l.version || now != l.version {
		l.s.answers.Rejected("changed")
		return nil, false
	}
	b, err := json.Marshal(a)
	if err != nil { // an echoed prompt with log-probabilities has a number that JSON lacks
		l.s.answers.Rejected("unwritable")
		return nil, false
	}
	return b, true
}

// keep puts an answer into the cache if it may.
func (l *lookup) keep(a *kept) {
	if b, ok := l.payload(a); ok {
		l.s.answers.Put(l.key, b)
	}
}

// tell says in headers what the cache did: X-Cache for people, Cache-Status (RFC 9211) for programs. Where no answers are
// kept there is nothing to tell.
func (l *lookup) tell(header map[string]string) {
	switch {
	case l.why == whyOff:
	case l.hit != nil:
		header["X-Cache"], header["Age"] = "hit", wholeSeconds(l.hit.Age)
		header["Cache-Status"] = "pimoe; hit; ttl=" + wholeSeconds(l.hit.Left) + "; detail=" + l.hit.From
	case l.why != "":
		header["X-Cache"], header["Cache-Status"] = "bypass", "pimoe; fwd=bypass; detail="+l.why
	case l.fresh:
		header["X-Cache"], header["Cache-Status"] = "bypass", "pimoe; fwd=request"
	default:
		header["X-Cache"], header["Cache-Status"] = "miss", "pimoe; fwd=uri-miss"
	}
}

func wholeSeconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

// stream writes a kept answer as events: all of a choice's text at once.
func (a *kept) stream(want *openai.Request, d dialect, w *events) error {
	d.open(len(a.Choices), want, w)
	for _, c := range a.Choices {
		for _, e := range split(c) {
			w.data(d.event(d.head, e, want.IncludeUsage))
		}
	}
	d.finish(a.Usage, a.Programs, want, w)
	return w.err
}

// gathering is a stream's answer while it is written, for the cache.
type gathering struct {
	l *lookup
	j *joiner // nil = it is not to be kept
}

// gather begins to put the pieces of a stream together.
func (l *lookup) gather(g *generation) *gathering {
	if l.why != "" {
		return &gathering{l: l}
	}
	return &gathering{l: l, j: g.joiner()}
}

func (k *gathering) add(p piece) {
	if k.j != nil {
		k.j.add(p)
	}
}

// keep keeps the answer of a stream that has been generated to its end, whether or not its client has read it.
func (k *gathering) keep(g *generation) {
	if k.j != nil {
		k.l.keep(&kept{Choices: k.j.joined(), Usage: g.usage(), Programs: g.programs(), Version: g.version(), quality: g.quality()})
	}
}

// cacheStats is the cache in the tree of stats.
func (s *Server) cacheStats() any {
	redis := map[string]any{"configured": s.redis != nil}
	if s.redis != nil {
		redis["healthy"] = s.redis.Healthy()
	}
	return map[string]any{"answers": s.answers.Stats(), "redis": redis}
}
