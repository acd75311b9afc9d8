package lookout

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/alert"
)

const (
	// waiting is how many messages a webhook that does not answer may be behind: a day of trouble is fewer.
	waiting = 256
	// tries and the pauses between them, which double up to longestPause, last about ten minutes: longer than a receiver's restart.
	tries        = 12
	longestPause = 2 * time.Minute
	// lastWords is how long Close waits for what has not been sent.
	lastWords = 2 * time.Second
)

// WebhookOptions are a Webhook's; the zero value is none.
type WebhookOptions struct {
	URL     string
	Secret  string // empty = messages are not signed
	Timeout time.Duration
	Source  string // who says it: the model's id
	Pause   time.Duration
	Client  *http.Client // nil = one of its own
}

// Webhook posts alerts to an address, in order, each until it was taken or tries are used up. A nil one does nothing.
type Webhook struct {
	o       WebhookOptions
	log     *slog.Logger
	queue   chan []byte
	ctx     context.Context // ends when nothing more is sent
	cancel  context.CancelFunc
	closing chan struct{}
	once    sync.Once
	done    sync.WaitGroup

	sent, failed, dropped *metrics.Counter
}

func startWebhook(o WebhookOptions, r *metrics.Registry, log *slog.Logger) *Webhook {
	if o.URL == "" {
		return nil
	}
	if o.Pause == 0 {
		o.Pause = time.Second
	}
	if o.Client == nil {
		o.Client = &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, IdleConnTimeout: time.Minute}}
	}
	client := *o.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // what is signed is for this address
	o.Client = &client
	count := func(outcome string) *metrics.Counter {
		return r.Counter("pimoe_alert_notifications_total", "outcome", outcome)
	}
	h := &Webhook{o: o, log: log, queue: make(chan []byte, waiting), closing: make(chan struct{}), sent: count("sent"), failed: count("failed"), dropped: count("dropped")}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.done.Go(h.run)
	return h
}

// message is what is posted: version 4 of Alertmanager's webhooks, so that receivers of those take it.
type message struct {
	Version           string            `json:"version"`
	GroupKey          string            `json:"groupKey"`
	Status            string            `json:"status"`
	Receiver          string            `json:"receiver"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
	Alerts            []messageAlert    `json:"alerts"`
}

type messageAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

// Send puts alerts into the queue, one message for each, and never waits.
func (h *Webhook) Send(alerts []alert.Alert) {
	if h == nil {
		return
	}
	for _, a := range alerts {
		body, err := json.Marshal(messageOf(a, h.o.Source))
		if err == nil {
			select {
			case h.queue <- body:
				continue
			default:
				err = fmt.Errorf("%d messages wait already", waiting)
			}
		}
		h.dropped.Inc()
		h.log.Error("alert not sent", "alert", a.Rule, "state", string(a.State), "error", err.Error())
	}
}

func messageOf(a alert.Alert, source string) message {
	labels := map[string]string{"alertname": a.Rule, "severity": string(a.Severity), "source": source}
	for k, v := range a.Labels {
		labels[k] = v
	}
	annotations := map[string]string{"summary": a.Summary, "runbook": a.Runbook}
	sum := sha256.Sum256(fmt.Append(nil, labels)) // maps are printed in order
	group := map[string]string{"alertname": a.Rule}
	return message{
		Version: "4", GroupKey: "{}:{alertname=" + strconv.Quote(a.Rule) + "}", Status: string(a.State), Receiver: "pimoe",
		GroupLabels: group, CommonLabels: labels, CommonAnnotations: annotations,
		Alerts: []messageAlert{{
			Status: string(a.State), Labels: labels, Annotations: annotations, StartsAt: a.Fired, EndsAt: a.Resolved, Fingerprint: hex.EncodeToString(sum[:8]),
		}},
	}
}

// Close sends what waits for two seconds at most, each once more, and ends.
func (h *Webhook) Close() {
	if h == nil {
		return
	}
	h.once.Do(func() { close(h.closing) })
	t := time.AfterFunc(lastWords, h.cancel)
	h.done.Wait()
	t.Stop()
	h.cancel()
	h.o.Client.CloseIdleConnections()
}

func (h *Webhook) run() {
	for {
		select {
		case body := <-h.queue:
			h.deliver(body)
			continue
		case <-h.closing:
		}
		for len(h.queue) > 0 { // nobody else takes
			h.deliver(<-h.queue)
		}
		return
	}
}

// deliver tries until the message is taken, refused for good, or there is no use in going on.
func (h *Webhook) deliver(body []byte) {
	pause := h.o.Pause
	var err error
	for n := range tries {
		var again bool
		if again, err = h.post(body); err == nil {
			h.sent.Inc()
			return
		}
		if !again || n == tries-1 || !h.wait(pause/2+rand.N(pause/2+1)) {
			break
		}
		pause = min(2*pause, longestPause)
	}
	h.failed.Inc()
	h.log.Error("alert not sent", "error", err.Error())
}

// wait is false once the Webhook closes.
func (h *Webhook) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-h.closing:
		return false
	}
}

// post sends a message once; again says whether another try may help.
func (h *Webhook) post(body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(h.ctx, h.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.o.URL, bytes.NewReader(body))
	if err != nil {
		return false, fmt.Errorf("webhook: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "pimoe")
	if h.o.Secret != "" {
		req.Header.Set("Pimoe-Signature", Sign(h.o.Secret, time.Now(), body))
	}
	resp, err := h.o.Client.Do(req)
	if err != nil {
		return true, fmt.Errorf("webhook: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return false, nil
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		return true, fmt.Errorf("webhook: the receiver answers %s", resp.Status)
	default:
		return false, fmt.Errorf("webhook: the receiver refuses: %s", resp.Status)
	}
}

// Sign is the header Pimoe-Signature: the time in seconds, and HMAC-SHA256 over the time, a dot and the body. A receiver computes
// it again and refuses times that are long past.
func Sign(secret string, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
