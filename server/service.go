package server

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
	"github.com/pimoe/pimoe/server/instance"
)

// service is what the edge needs of an instance: values, and the few things it calls.
type service struct {
	id       string
	created  time.Time
	digest   string
	class    string // numeric classes of the expert groups, comma separated
	routing  string // "load-dependent", or empty for row-independent routing
	hidden   int
	vocab    int
	context  int // most tokens of prompt and continuation
	layers   []int
	defaults sampler.Params
	maxNew   int // most new tokens of a chat answer if the client says nothing; 0 = up to the context limit

	engine  engineAPI
	text    textAPI
	ready   func() error
	experts func() any // one entry for each process
	release func(group string, replica int) (int, error)
	router  func() any
	metrics *metrics.Registry
}

// engineAPI is the part of *engine.Engine that the edge calls.
type engineAPI interface {
	Submit(ctx context.Context, r engine.Request) (engine.Stream, error)
	Hidden(ctx context.Context, layer int, x tensor.Matrix, all bool) (tensor.Matrix, []engine.RouteInfo, error)
	Stats() engine.Stats
	Drain(ctx context.Context) error
}

// textAPI is the part of *tokenizer.Tokenizer that the edge calls.
type textAPI interface {
	Encode(text string, special bool) []int32
	Decode(ids []int32, skipSpecial bool) string
	Token(id int32) (string, bool)
	Size() int
	Chat() (*tokenizer.Template, error)
}

func serviceOf(i *instance.Instance) service {
	s := service{
		id: i.ID, created: i.Created, digest: i.Digest,
		hidden: i.Model.Hidden, vocab: i.Model.Vocab, context: i.Engine.Context(), layers: i.Model.SparseLayers(),
		defaults: defaultsOf(i.Model.Defaults),
		engine:   i.Engine, text: i.Tokenizer, ready: i.Ready, metrics: i.Metrics,
		experts: func() any { return append([]host.Status{}, i.Host.Status()...) },
		release: i.Host.Release,
		router:  func() any { return i.Host.RouterStatus() },
	}
	if n := i.Model.Defaults.MaxNewTokens; n != nil {
		s.maxNew = *n
	}
	var classes []string
	for _, p := range i.Host.Status() {
		if !slices.Contains(classes, p.NumericClass) {
			classes = append(classes, p.NumericClass)
		}
	}
	s.class = strings.Join(classes, ",")
	if slices.Contains(i.Host.RouterStatus().Capabilities, sdk.CapLoadDependent) {
		s.routing = sdk.CapLoadDependent
	}
	return s
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

// fingerprint names the weights in OpenAI's system_fingerprint.
func (s *service) fingerprint() string {
	digest := strings.TrimPrefix(s.digest, "sha256:")
	return "pimoe-" + digest[:min(len(digest), 12)]
}

// template renders a conversation with the model's own chat template.
func (s *service) template(ctx context.Context, messages, kwargs json.RawMessage) (string, error) {
	t, err := s.text.Chat()
	if err != nil {
		return "", err
	}
	return t.Render(ctx, tokenizer.ChatInput{Messages: messages, AddGenerationPrompt: true, Kwargs: kwargs})
}
