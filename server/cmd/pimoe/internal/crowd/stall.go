package crowd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fasthttp/websocket"

	"github.com/pimoe/pimoe/sdk"
)

const (
	// flood is what is published to those who may or may not read: some eight messages fill what the system keeps for a client.
	flood      = 32 << 10
	floodEvery = time.Second
	// stallFor is how long each of the three is measured: who does not read is there for most of it.
	stallFor = 20 * time.Second
	// others are the streams whose tokens are timed, length is how long each is.
	others = 4
	length = 64
	// tight is the receive buffer of who does not read.
	tight = 4 << 10
)

// stall times the tokens of other streams: alone, while a crowd reads what is published to it, and while it does not.
func (o Options) stall(ctx context.Context, r *Report) (err error) {
	o.Hold = min(o.Hold, stallFor)
	o.Say("%d streams alone for %v", others, o.Hold)
	if r.GapsAlone, err = o.gaps(ctx); err != nil {
		return err
	}
	for _, reads := range []bool{true, false} {
		o.Say("the same beside %d listeners, who read: %v", o.Stalled, reads)
		before, err := o.settled()
		if err != nil {
			return err
		}
		l, err := o.listeners(ctx, reads)
		if err != nil {
			return err
		}
		gaps, err := o.gaps(ctx)
		ended := l.close()
		if err != nil {
			return err
		}
		if reads {
			r.GapsReading = gaps
			if ended > 0 {
				return fmt.Errorf("%d of %d who read were cut off: %w", ended, o.Stalled, sdk.ErrInvalidOutput)
			}
			continue
		}
		r.GapsStalled, r.StalledCut = gaps, ended
		r.StalledBytes = max(l.most.Load()-before, 0) / int64(o.Stalled)
	}
	if r.GapsReading.P99 > 0 {
		r.StalledRatio = round(r.GapsStalled.P99 / r.GapsReading.P99)
	}
	if r.GapsAlone.P99 > 0 {
		r.StalledToAlone = round(r.GapsStalled.P99 / r.GapsAlone.P99)
	}
	return nil
}

// listeners are subscribed to a topic to which somebody publishes.
type listeners struct {
	all    []*websocket.Conn
	reads  bool
	ended  atomic.Int64
	most   atomic.Int64 // bytes of the server's memory
	work   sync.WaitGroup
	cancel context.CancelFunc
	quit   atomic.Bool
}

func (o Options) listeners(ctx context.Context, reads bool) (*listeners, error) {
	l := &listeners{reads: reads}
	ctx, l.cancel = context.WithCancel(ctx)
	h := newHolder(o)
	for range o.Stalled {
		ws, err := o.dialSocket(ctx, h.dialer(), tight)
		if err == nil {
			l.all = append(l.all, ws)
			err = ws.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","id":"s","data":{"topic":"flood"}}`))
		}
		if err != nil {
			l.close()
			return nil, err
		}
		if reads {
			l.work.Go(func() { l.read(ws) })
		}
	}
	ws, err := o.dialSocket(ctx, h.dialer(), 0)
	if err != nil {
		l.close()
		return nil, err
	}
	l.work.Go(func() { o.publish(ctx, ws, l) })
	return l, nil
}

func (l *listeners) read(ws *websocket.Conn) {
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			if !l.quit.Load() {
				l.ended.Add(1)
			}
			return
		}
	}
}

// look reads what waits and finds out whether there is an end behind it.
func (l *listeners) look(ws *websocket.Conn) {
	for {
		_, _, err := ws.ReadMessage()
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			return
		}
		if err != nil {
			l.ended.Add(1)
			return
		}
	}
}

// publish floods the topic and watches the server's memory.
func (o Options) publish(ctx context.Context, ws *websocket.Conn, l *listeners) {
	defer ws.Close()
	l.work.Go(func() { // its own answers
		for {
			if _, _, err := ws.ReadMessage(); err != nil {
				return
			}
		}
	})
	message := fmt.Sprintf(`{"type":"publish","id":"p","data":{"topic":"flood","payload":%q}}`, strings.Repeat("x", flood))
	tick := time.NewTicker(floodEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if ws.WriteMessage(websocket.TextMessage, []byte(message)) != nil {
				return
			}
			if n, err := o.Footprint(); err == nil && n > l.most.Load() {
				l.most.Store(n)
			}
		}
	}
}

// close ends all and returns how many the server had ended before. Who has not read finds out by reading now.
func (l *listeners) close() int {
	l.cancel()
	l.quit.Store(true)
	for _, ws := range l.all {
		_ = ws.SetReadDeadline(time.Now().Add(time.Second))
		if !l.reads {
			l.work.Go(func() { l.look(ws) })
		}
	}
	l.work.Wait()
	ended := int(l.ended.Load())
	for _, ws := range l.all {
		ws.Close()
	}
	return ended
}

// gaps times the tokens of some streams, each of which begins again when it has ended.
func (o Options) gaps(ctx context.Context) (Quantiles, error) {
	until := time.Now().Add(o.Hold)
	var mu sync.Mutex // guards times and failed
	var times []time.Duration
	var failed error
	var streams sync.WaitGroup
	h := newHolder(o)
	for i := range others {
		streams.Go(func() {
			got, err := o.tokens(ctx, h, until, i)
			mu.Lock()
			defer mu.Unlock()
			times = append(times, got...)
			if err != nil {
				failed = err
			}
		})
	}
	streams.Wait()
	return quantiles(times), failed
}

func (o Options) tokens(ctx context.Context, h *holder, until time.Time, seed int) (times []time.Duration, err error) {
	ws, err := o.dialSocket(ctx, h.dialer(), 0)
	if err != nil {
		return nil, err
	}
	defer ws.Close()
	for n := 0; time.Now().Before(until); n++ {
		body := fmt.Sprintf(`{"type":"generate","id":"t","data":{"model":%q,"prompt":"Once","max_tokens":%d,"ignore_eos":true,"seed":%d}}`, o.Model, length, seed*1000+n)
		if err := ws.WriteMessage(websocket.TextMessage, []byte(body)); err != nil {
			return times, err
		}
		var last time.Time
		for kind := ""; kind != "done"; {
			_ = ws.SetReadDeadline(time.Now().Add(patience))
			_, b, err := ws.ReadMessage()
			if err != nil {
				return times, err
			}
			var head struct{ Type string }
			if json.Unmarshal(b, &head) != nil || head.Type == "error" {
				return times, fmt.Errorf("%.200s: %w", b, sdk.ErrInvalidOutput)
			}
			if kind = head.Type; kind != "token" {
				continue
			}
			now := time.Now()
			if !last.IsZero() {
				times = append(times, now.Sub(last))
			}
			last = now
		}
	}
	return times, nil
}
