package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gonum.org/v1/gonum/stat"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/ledger"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/load"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/nemesis"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/program"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/schedule"
)

var errGrown = errors.New("something has grown")

// Sample is what a server and its processes held at a time.
type Sample struct {
	Seconds     float64 `json:"seconds"`
	Requests    uint64  `json:"requests"`
	Restarts    uint64  `json:"restarts"`
	HostRSS     int64   `json:"host_rss"`   // bytes, garbage included
	ExpertRSS   int64   `json:"expert_rss"` // bytes, mean of all expert processes
	Goroutines  int     `json:"goroutines"`
	Descriptors int     `json:"descriptors"`
	Mappings    int     `json:"mappings"` // files and memfds that are mapped
	Processes   int     `json:"processes"`
}

// SoakReport is the outcome of Soak.
type SoakReport struct {
	Requests int     `json:"requests"`
	Failed   int     `json:"failed"`
	Wrong    int     `json:"wrong"`
	Lost     int     `json:"lost"`
	Restarts uint64  `json:"restarts"`
	Seconds  float64 `json:"seconds"`
	// Before and After are at rest, the garbage collected.
	Before Sample `json:"before"`
	After  Sample `json:"after"`
	// Slopes of memory by linear regression over the samples under load, the first tenth left out.
	HostMiBPerHour      float64  `json:"host_mib_per_hour"`
	HostBytesPerRequest float64  `json:"host_bytes_per_request"`
	ExpertMiBPerHour    float64  `json:"expert_mib_per_hour"`
	Samples             []Sample `json:"samples"`
	Seed                uint64   `json:"seed"`
	Replicas            int      `json:"replicas"`
	Examples            []string `json:"examples,omitempty"`
	Dir                 string   `json:"dir,omitempty"`
}

// Err is nil if everything that can be counted is back where it was, and no answer was bad. Memory is reported only: how much
// of it is garbage that waits, its slope over a long run tells.
func (r SoakReport) Err() error {
	b, a := r.Before, r.After
	var err error
	if a.Goroutines > b.Goroutines || a.Descriptors > b.Descriptors || a.Mappings > b.Mappings || a.Processes != b.Processes {
		err = fmt.Errorf("%w: goroutines %d to %d, descriptors %d to %d, mappings %d to %d, processes %d to %d", errGrown,
			b.Goroutines, a.Goroutines, b.Descriptors, a.Descriptors, b.Mappings, a.Mappings, b.Processes, a.Processes)
	}
	return errors.Join(err, faultless(ledger.Verdict{Requests: r.Requests, Failed: r.Failed, Wrong: r.Wrong, Lost: r.Lost}, r.Replicas))
}

const (
	// warmRequests are made before anything is measured, and every process is replaced once: pools, caches and connections are full then.
	warmRequests = 200
	// restFor is how long the server rests at least before it is measured, and restWithin how long it may need.
	restFor, restWithin = 3 * time.Second, 20 * time.Second
	soakEvery           = 500 * time.Millisecond
)

// Soak loads a server until so many requests have been asked and so many processes been killed, spread evenly. tokens is how many
// an answer has at most, so that there may be many of them in little time; 0 = as the questions say.
func (b *Bench) Soak(ctx context.Context, requests, kills, tokens int) (r SoakReport, err error) {
	qs := load.Questions(b.Seed, questions)
	if tokens > 0 {
		qs = load.Short(qs, tokens)
	}
	if _, err := b.oracle(ctx, qs); err != nil {
		return r, err
	}
	server, err := b.serve(ctx, fmt.Sprintf("experts.replicas=%d", b.Replicas))
	if err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			server.Kill()
		}
	}()
	status, err := server.Status(ctx)
	if err != nil {
		return r, err
	}
	book, err := b.openBook()
	if err != nil {
		return r, err
	}
	s := &soak{bench: b, server: server, model: status.Model, questions: qs, book: book, began: time.Now()}
	err = s.run(ctx, &r, requests, kills, len(status.Experts)+1)
	if err = errors.Join(err, book.close()); err != nil {
		return r, err
	}
	if err := server.Stop(stopWithin); err != nil {
		return r, err
	}
	v, err := b.judge(ctx)
	if err != nil {
		return r, err
	}
	r.Requests, r.Failed, r.Wrong, r.Lost, r.Examples = v.Requests, v.Failed, v.Wrong, v.Lost, v.Examples
	r.Seed, r.Replicas = b.Seed, b.Replicas
	return r, nil
}

// soak is one run of Soak.
type soak struct {
	bench     *Bench
	server    *program.Server
	model     string
	questions []load.Question
	book      *book
	began     time.Time
	asked     uint64 // by earlier loads
	rounds    uint64 // of work, so that no two of them give a request the same name
}

func (s *soak) run(ctx context.Context, r *SoakReport, requests, kills, processes int) (err error) {
	if _, err := s.work(ctx, warmRequests, processes); err != nil {
		return err
	}
	if r.Before, err = s.rest(ctx, nil); err != nil {
		return err
	}
	if r.Samples, err = s.work(ctx, requests, kills); err != nil {
		return err
	}
	if r.After, err = s.rest(ctx, &r.Before); err != nil {
		return err
	}
	r.Restarts, r.Seconds = r.After.Restarts-r.Before.Restarts, round(r.After.Seconds-r.Before.Seconds)
	r.HostMiBPerHour = slope(r.Samples, func(x Sample) (float64, float64) { return x.Seconds / 3600, float64(x.HostRSS) / (1 << 20) })
	r.HostBytesPerRequest = slope(r.Samples, func(x Sample) (float64, float64) { return float64(x.Requests), float64(x.HostRSS) })
	r.ExpertMiBPerHour = slope(r.Samples, func(x Sample) (float64, float64) { return x.Seconds / 3600, float64(x.ExpertRSS) / (1 << 20) })
	return nil
}

// work asks and kills, and samples meanwhile.
func (s *soak) work(ctx context.Context, requests, kills int) (samples []Sample, err error) {
	n, err := nemesis.Begin(ctx, s.server)
	if err != nil {
		return nil, err
	}
	client := s.bench.client(s.server, s.model)
	s.rounds++
	l := load.Begin(ctx, client, s.questions, s.bench.Clients, s.bench.Seed+s.rounds<<20, s.bench.Timeout, s.book.pen)
	done, next := 0, time.Now()
	for (int(l.Asked()) < requests || done < kills) && ctx.Err() == nil && err == nil {
		// Kills keep pace with requests; when all have been asked, the load goes on until the last kill.
		if done < kills && (int(l.Asked()) >= requests || uint64(done*requests) <= l.Asked()*uint64(kills)) && n.Settle(ctx, settleWithin) {
			kind := schedule.Kill
			if done%16 == 15 {
				kind = schedule.Router
			}
			n.Run(ctx, []schedule.Fault{{Kind: kind, Draw: uint64(done)}}, 0)
			done++
		}
		if now := time.Now(); now.After(next) {
			next = now.Add(soakEvery)
			var x Sample
			if x, err = s.sample(ctx); err == nil {
				x.Requests = s.asked + l.Asked()
				samples = append(samples, x)
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	n.Settle(ctx, settleWithin)
	l.End()
	s.asked += l.Asked()
	client.HTTP.CloseIdleConnections()
	_, endErr := n.End()
	return samples, errors.Join(err, endErr, ctx.Err())
}

// rest waits until the server holds no more than before, as far as that can be counted, or the time is up.
func (s *soak) rest(ctx context.Context, before *Sample) (x Sample, err error) {
	for began := time.Now(); ; {
		s.server.Rest()
		pause(ctx, time.Second)
		if err = s.server.Collect(ctx); err != nil {
			return x, err
		}
		if x, err = s.sample(ctx); err != nil {
			return x, err
		}
		x.Requests = s.asked
		calm := before == nil || x.Goroutines <= before.Goroutines && x.Descriptors <= before.Descriptors && x.Mappings <= before.Mappings
		if time.Since(began) > restWithin || calm && time.Since(began) > restFor {
			return x, ctx.Err()
		}
	}
}

// sample measures everything once. A process that ends meanwhile is left out.
func (s *soak) sample(ctx context.Context) (Sample, error) {
	status, err := s.server.Status(ctx)
	if err != nil {
		return Sample{}, err
	}
	host, err := program.FootprintOf(s.server.PID)
	if err != nil {
		return Sample{}, err
	}
	x := Sample{
		Seconds: round(time.Since(s.began).Seconds()), HostRSS: host.RSS, Goroutines: status.Goroutines, Descriptors: host.Descriptors,
		Mappings: host.Mappings, Processes: len(s.server.Members()), Restarts: status.Router.Restarts,
	}
	living := int64(0)
	for _, e := range status.Experts {
		x.Restarts += e.Restarts
		if f, err := program.FootprintOf(e.PID); err == nil && e.PID != 0 {
			x.ExpertRSS += f.RSS
			living++
		}
	}
	x.ExpertRSS /= max(living, 1)
	return x, nil
}

// slope is the least-squares slope of y over x, without the first tenth of the samples; 0 of fewer than three.
func slope(samples []Sample, point func(Sample) (x, y float64)) float64 {
	var xs, ys []float64
	for _, s := range samples[len(samples)/10:] {
		x, y := point(s)
		xs, ys = append(xs, x), append(ys, y)
	}
	if len(xs) < 3 {
		return 0
	}
	_, beta := stat.LinearRegression(xs, ys, nil, false)
	return round(beta)
}
