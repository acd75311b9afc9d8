package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/grammar"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
	"github.com/pimoe/pimoe/server/cost"
	"github.com/pimoe/pimoe/server/instance"
	"github.com/pimoe/pimoe/server/live"
)

// service is what the edge needs of an instance: values, and the few things it calls.
type service struct {
	id       string
	created  time.Time
	digest   string
	version  func() (fixed, now string) // see instance.Version; nil = nobody knows, and no answer is kept
	class    func() string              // numeric classes of the expert groups, comma separated
	standby  string                     // those of the groups that stand by for others, as far as they are different ones
	lenient  bool                       // the policy lets some answers do without experts
	routing  string                     // "load-dependent", or empty for row-independent routing
	hidden   int
	vocab    int
	eos      []int32 // tokens that end a text
	context  int     // most tokens of prompt and continuation
	layers   []int
	width    int // experts of a layer
	defaults sampler.Params
	maxNew   int // most new tokens of a chat answer if the client says nothing; 0 = up to the context limit

	engine  engineAPI
	text    textAPI
	ready   func() error              // nil = a request would be answered
	lacking func() error              // nil = exactly
	experts func() any                // one entry for each process
	devices func(ctx context.Context) // has the processes asked what their devices do, for experts; nil = nobody has any
	plugins func() []int              // process ids; nil = there are none
	groups  func() any                // one entry for each group: how many processes it has and should have
	release func(group string, replica int) (int, error)
	router  func() any
	routed  func() string // name of the strategy
	reload  func(ctx context.Context, next config.Config) (*instance.Reloaded, error)
	applied func() config.Config
	changes changesAPI // nil where nothing can be changed
	metrics *metrics.Registry
	live    live.Source                       // what watchers see; the zero value shows nothing
	costs   costAPI                           // nil = nobody keeps accounts
	load    func(memoryLimit int64) cost.Load // nil where costs is
}

// engineAPI is the part of *engine.Engine that the edge calls.
type engineAPI interface {
	Submit(ctx context.Context, r engine.Request) (engine.Stream, error)
	Hidden(ctx context.Context, layer int, x tensor.Matrix, all bool, accept moe.Accept) (tensor.Matrix, []engine.RouteInfo, engine.Quality, error)
	// Admits says why a request would not be taken now, before anything is done for it.
	Admits(tenant string, p engine.Priority, deadline time.Time) error
	Trim()
	Stats() engine.Stats
	Drain(ctx context.Context) error
}

// changesAPI is the part of *instance.Instance and its host that changes expert groups under load.
type changesAPI interface {
	Swap(ctx context.Context, group string, c instance.Change) (*host.Swapped, error)
	Try(ctx context.Context, group, kind string, share, bound float64, c instance.Change) (*host.Trial, error)
	Promote(ctx context.Context, group string) (*host.Trial, error)
	Rollback(ctx context.Context, group string) (*host.Trial, error)
	Trial() *host.Trial
	Lend(group string, patience time.Duration) (socket string, err error)
	Scale(group string, replicas int) (*host.GroupStatus, error)
	Rebalance() (*instance.Rebalance, error)
	Regroup(ctx context.Context) (*instance.Rebalance, *instance.Reloaded, error)
	Restart(ctx context.Context, group string, replica int) error
	Drain(group string, replica int) (*host.GroupStatus, error)
	Hurt(group string, replica int, fault string) (pid int, err error)
}

// textAPI is the part of *tokenizer.Tokenizer that the edge calls.
type textAPI interface {
	Encode(text string, special bool) []int32
	Decode(ids []int32, skipSpecial bool) string
	Token(id int32) (string, bool)
	Writes(id int32) (behind, first []byte)
	Size() int
	Chat() (*tokenizer.Template, error)
}

func serviceOf(i *instance.Instance) service {
	s := service{
		id: i.ID, created: i.Created, digest: i.Digest,
		hidden: i.Model.Hidden, vocab: i.Model.Vocab, eos: i.Model.EOS, context: i.Engine.Context(), layers: i.Model.SparseLayers(), width: i.Model.Experts,
		defaults: defaultsOf(i.Model.Defaults),
		engine:   i.Engine, text: i.Tokenizer, ready: i.Ready, lacking: i.Lacking, metrics: i.Metrics,
		experts: func() any { return append([]host.Status{}, i.Host.Status()...) },
		devices: func(ctx context.Context) { _, _ = i.Host.Devices(ctx) }, // who does not answer keeps what it said before
		plugins: func() []int { return pluginsOf(i.Host) },
		groups:  func() any { return append([]host.GroupStatus{}, i.Host.Scaling()...) },
		release: i.Host.Release,
		router:  func() any { return i.Host.RouterStatus() },
		routed:  func() string { return i.Applied().Router.Plugin },
		changes: i, reload: i.Reload, applied: i.Applied, version: i.Version, live: liveOf(i),
		costs: i.Costs, load: i.Load,
	}
	if n := i.Model.Defaults.MaxNewTokens; n != nil {
		s.maxNew = *n
	}
	main, standby := i.Classes()
	s.class = func() string { now, _ := i.Classes(); return classNames(now, nil) }
	s.standby, s.lenient = classNames(standby, main), i.Lenient()
	if slices.Contains(i.Host.RouterStatus().Capabilities, sdk.CapLoadDependent) {
		s.routing = sdk.CapLoadDependent
	}
	return s
}

// liveOf is what watchers see of an instance.
func liveOf(i *instance.Instance) live.Source {
	first, inter := i.Metrics.Distribution(engine.TimeToFirstToken, nil), i.Metrics.Distribution(engine.InterToken, nil)
	answers := func(status string) uint64 { return i.Metrics.Counter(engine.Answers, "status", status).Get() }
	return live.Source{
		Model: i.ID, Layout: i.Host.Layout, Rows: i.Host.Rows, Processes: i.Host.Status, Groups: i.Host.Scaling, Router: i.Host.RouterStatus,
		Trial: i.Host.Trial, Engine: i.Engine.Stats, FirstToken: first.Counts, InterToken: inter.Counts, Bounds: first.Bounds(),
		Answers: func() live.Answers {
			return live.Answers{Exact: answers(engine.StatusExact), Fallback: answers(engine.StatusFallback), Degraded: answers(engine.StatusDegraded)}
		},
	}
}

// pluginsOf are the ids of the processes that run beside this one.
func pluginsOf(h *host.Host) (pids []int) {
	for _, s := range h.Status() {
		pids = append(pids, s.PID)
	}
	pids = append(pids, h.RouterStatus().PID)
	return slices.DeleteFunc(pids, func(pid int) bool { return pid == 0 || pid == os.Getpid() })
}

// vocabulary is what the tokens write, for the forms of answers.
func (s *service) vocabulary() (*grammar.Vocabulary, error) {
	return instance.VocabularyOf(s.text, s.vocab, s.eos)
}

// defaultsOf are OpenAI's defaults, temperature 1 and everything else off, where generation_config.json says nothing.
// do_sample has no effect: clients of this API ask for greedy decoding by temperature 0.
func defaultsOf(d model.Defaults) sampler.Params {
	p := sampler.Params{Temperature: 1, TopP: 1}
	for _, f := range []struct{ to, from *float32 }{
		{&p.Temperature, d.Temperature}, {&p.TopP, d.TopP}, {&p.MinP, d.MinP}, {&p.RepetitionPenalty, d.RepetitionPenalty},
	} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	if d.TopK != nil {
		p.TopK = *d.TopK
	}
	return p
}

// fingerprint names what computes in OpenAI's system_fingerprint: the weights, and the arithmetic and the router that
// decide about the bits. With the same one, the same request and seed give the same answer.
func (s *service) fingerprint() string {
	digest := strings.TrimPrefix(s.digest, "sha256:")
	how := sha256.Sum256([]byte(s.class() + "\x00" + s.routerName()))
	return "pimoe-" + digest[:min(len(digest), 12)] + "-" + hex.EncodeToString(how[:3])
}

// routerName is the name of the router's strategy; empty where nobody says.
func (s *service) routerName() string {
	if s.routed == nil {
		return ""
	}
	return s.routed()
}

// template renders a conversation with the model's own chat template. tools are described to the model, nil = none.
func (s *service) template(ctx context.Context, messages, tools, kwargs json.RawMessage) (string, error) {
	t, err := s.text.Chat()
	if err != nil {
		return "", err
	}
	in := tokenizer.ChatInput{Messages: messages, Tools: tools, AddGenerationPrompt: true, Kwargs: kwargs}
	if _, knows := familyOf(t); !knows && (tools != nil || bytes.Contains(messages, []byte(`"tool_call`))) {
		if in.Messages, err = withoutTools(messages, tools); err != nil {
			return "", err
		}
		in.Tools = nil
	}
	return t.Render(ctx, in)
}

// family is how the model writes calls of tools.
func (s *service) family() (family, error) {
	t, err := s.text.Chat()
	if err != nil {
		return family{}, err
	}
	f, _ := familyOf(t)
	return f, nil
}
