package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/ledger"
)

// Load is clients at work. Make it with Begin; End waits for what is under way.
type Load struct {
	server    Server
	questions []Question
	seed      uint64
	timeout   time.Duration
	pen       *ledger.Pen
	enough    chan struct{}
	wg        sync.WaitGroup
	asked     atomic.Uint64
	era       atomic.Uint64

	mu    sync.Mutex // guards paces
	paces []Pace
}

// Begin starts clients, each of which asks one question after the other and notes it with the pen. A request that has no
// outcome after the timeout counts as broken.
func Begin(ctx context.Context, s Server, questions []Question, clients int, seed uint64, timeout time.Duration, pen *ledger.Pen) *Load {
	l := &Load{server: s, questions: questions, seed: seed, timeout: timeout, pen: pen, enough: make(chan struct{})}
	for n := range clients {
		l.wg.Go(func() { l.client(ctx, n) })
	}
	return l
}

// Asked is how many requests have been sent.
func (l *Load) Asked() uint64 { return l.asked.Load() }

// Era marks what is asked and ends from now on.
func (l *Load) Era(era uint64) { l.era.Store(era) }

// End stops asking, waits for the answers that are under way and returns when the tokens of all streams came.
func (l *Load) End() []Pace {
	close(l.enough)
	l.wg.Wait()
	return l.paces
}

func (l *Load) client(ctx context.Context, n int) {
	rng := rand.New(rand.NewPCG(l.seed, clientStream+uint64(n)<<34))
	for i := 0; ; i++ {
		select {
		case <-l.enough:
			return
		case <-ctx.Done():
			return
		default:
		}
		l.one(ctx, fmt.Sprintf("%x-%d-%d", l.seed, n, i), rng.IntN(len(l.questions)), rng.IntN(3) > 0)
	}
}

// one asks one question. Two of three are streamed.
func (l *Load) one(ctx context.Context, id string, question int, stream bool) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	l.asked.Add(1)
	note := func(e ledger.Entry) {
		e.ID, e.Question, e.Era = id, question, l.era.Load()
		l.pen.Write(e)
	}
	note(ledger.Entry{Event: ledger.Asked})
	a, pace, err := l.server.Ask(ctx, l.questions[question], stream, func() { note(ledger.Entry{Event: ledger.Accepted}) })
	if err != nil {
		event := ledger.Broken
		if refused := (*RefusedError)(nil); errors.As(err, &refused) {
			event = ledger.Refused
		}
		note(ledger.Entry{Event: event, Why: err.Error()})
		return
	}
	note(ledger.Entry{Event: ledger.Answered, Answer: encode(a)})
	if stream {
		l.mu.Lock()
		l.paces = append(l.paces, pace)
		l.mu.Unlock()
	}
}

func encode(a Answer) json.RawMessage {
	b, err := json.Marshal(a)
	if err != nil {
		panic("load: an answer does not become JSON")
	}
	return b
}

// Record asks every question once, so many at once, and writes the answers for a judge.
func Record(ctx context.Context, s Server, questions []Question, clients int, pen *ledger.Pen) error {
	wait, ctx := errgroup.WithContext(ctx)
	wait.SetLimit(clients)
	for n, q := range questions {
		wait.Go(func() error {
			a, _, err := s.Ask(ctx, q, false, func() {})
			if err != nil {
				return fmt.Errorf("ask the oracle question %d: %w", n, err)
			}
			pen.Write(ledger.Known{Question: n, Answer: encode(a)})
			return nil
		})
	}
	return errors.Join(wait.Wait(), pen.Err())
}

// Client is an HTTP client with a connection for each of so many clients. It follows no redirects.
func Client(clients int) *http.Client {
	return &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: clients},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
