package engine

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// The defaults of what Options leaves zero.
const (
	defaultPageTokens = 16 // small pages waste little at a sequence's end; smaller ones only add book-keeping
	defaultBuffer     = 64 // tokens that a slow reader may lag behind
	defaultTimeout    = 30 * time.Second
)

// Options are what an engine is made of. Model, Trunk, Block and Tokenizer are required.
type Options struct {
	Model *model.Config
	Trunk *model.Trunk
	Block moe.Block // the routed experts
	// Editions numbers the states of the experts, and Block then has a method At; nil = they never change.
	Editions  moe.Editions
	Tokenizer *tokenizer.Tokenizer
	Team      team.Team     // the threads of a step, which the caller keeps open until Close has returned; the zero Team is the loop's own
	Limits    config.Limits // zero fields have their defaults, but no queued requests are none

	// Cache is the cache's shape. Pages 0 = as many as MemoryBytes hold; PageTokens 0 = 16; no DType = F32.
	Cache model.CacheSpec
	// MemoryBytes bounds the cache. 0 = enough for all requests that may run at once, at most a quarter of the
	// machine's memory.
	MemoryBytes int64
	PrefixReuse bool // keep full pages and let later requests of the same tenant take them over

	Chunk   int               // most prompt tokens in a step that also decodes; 0 = as many as keep streams going, by the steps' times
	Buffer  int               // tokens that a stream holds for a slow reader before it is parked; 0 = 64
	Metrics *metrics.Registry // nil = counted but not shown
	Log     *slog.Logger      // nil = none
	Now     func() time.Time  // nil = time.Now

	// Outcome, if not nil, is told of every step by the decode loop; it must not block. The tokens that it asks the
	// probability of cost a pass over their logits.
	Outcome func(Outcome)
	Account Account // who pays for what is computed; nil = nobody asks
}

// Outcome is how one step turned out.
type Outcome struct {
	Tokens  int           // that were chosen, or given with their log-probabilities asked for
	LogProb float64       // sum of their natural log-probabilities under the unmodified distribution
	Waiting time.Duration // since the oldest request that has not had its first step was submitted; 0 = there is none
}

// setup is what the loop works with: values and small interfaces, so that tests supply a model of their own.
type setup struct {
	trunk      forwarder
	decoder    func() decoder
	vocab      int
	eos        []int32
	context    int // most tokens of a sequence, prompt and continuation
	pages      int
	pageTokens int
	limits     config.Limits
	live       *liveLimits // those of limits that may change
	reuse      bool
	editions   moe.Editions // nil = the experts never change
	lenient    bool         // the trunk's block may do without experts
	chunk      int
	buffer     int
	metrics    *metrics.Registry
	log        *slog.Logger
	now        func() time.Time
	outcome    func(Outcome) // nil = nobody asks
	account    Account       // nil = nobody asks
}

// fill sets what the options left zero.
func (s *setup) fill() {
	orInt := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	orInt(&s.limits.MaxBatchSize, 32)
	orInt(&s.limits.MaxBatchTokens, 512)
	orInt(&s.limits.MaxSequenceLength, 2048)
	orInt(&s.limits.MaxConcurrentRequests, 100)
	orInt(&s.buffer, defaultBuffer)
	s.limits.MaxQueuedRequests = max(s.limits.MaxQueuedRequests, 0)
	if s.limits.RequestTimeout <= 0 {
		s.limits.RequestTimeout = defaultTimeout
	}
	if s.metrics == nil {
		s.metrics = metrics.New()
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
}

// cacheSpec completes the cache's shape.
func cacheSpec(o Options, s setup) (model.CacheSpec, error) {
	spec := o.Cache
	if spec.PageTokens <= 0 {
		spec.PageTokens = defaultPageTokens
	}
	if spec.DType == tensor.Invalid {
		spec.DType = tensor.F32
	}
	if spec.Pages > 0 {
		return spec, nil
	}
	perSequence := (s.context + spec.PageTokens - 1) / spec.PageTokens
	page := max(o.Model.PageBytes(spec), 1)
	if o.MemoryBytes > 0 {
		spec.Pages = int(min(o.MemoryBytes/page, math.MaxInt32))
		if spec.Pages == 0 {
			return spec, fmt.Errorf("a cache of %d bytes holds no page of %d bytes: %w", o.MemoryBytes, page, sdk.ErrInvalid)
		}
		return spec, nil
	}
	wanted := int64(s.limits.MaxConcurrentRequests) * int64(perSequence)
	spec.Pages = int(min(wanted, max(memoryBytes()/4/page, int64(perSequence)), math.MaxInt32))
	return spec, nil
}

// memoryBytes is the machine's memory; 4 GiB where the system does not say.
func memoryBytes() int64 {
	const unknown = 4 << 30
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return unknown
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "MemTotal:" {
			if kb, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				return kb << 10
			}
		}
	}
	return unknown
}
