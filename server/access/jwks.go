package access

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/pimoe/pimoe/sdk"
)

// keySource gives the keys of an issuer. unknown says that a token names a key which the keys given last do not have.
type keySource interface {
	keys(ctx context.Context, unknown bool) (KeySet, error)
}

// fixedKeys never change.
type fixedKeys struct{ set KeySet }

func (f fixedKeys) keys(context.Context, bool) (KeySet, error) { return f.set, nil }

const (
	keysFresh  = 15 * time.Minute // keys are fetched again after it: what an issuer revokes is gone soon
	keysStale  = 24 * time.Hour   // how long they are used while the issuer can't be reached: an outage of a night
	keysRetry  = 30 * time.Second // least time between two fetches, whatever tokens name: strangers can't make this server call the issuer more often
	fetchLimit = 5 * time.Second
)

// cached fetches what an issuer publishes when it is needed and keeps it. Fetches happen one at a time; whoever comes
// meanwhile shares the outcome.
type cached[T any] struct {
	fetch func(ctx context.Context) (T, error)
	now   func() time.Time
	warn  func(msg string, args ...any)
	what  string // for messages

	flight singleflight.Group
	mu     sync.Mutex // guards the rest
	value  T
	got    time.Time // of value; zero = never
	tried  time.Time
	failed error // of the last try
}

// cachedKeys are the keys of an issuer.
type cachedKeys struct{ cached[KeySet] }

func (c *cachedKeys) keys(ctx context.Context, unknown bool) (KeySet, error) {
	return c.get(ctx, unknown)
}

// get is the value; unknown asks for a newer one than the last.
func (c *cached[T]) get(ctx context.Context, unknown bool) (T, error) {
	v, due, err := c.look(unknown)
	if !due {
		return v, err
	}
	done := c.flight.DoChan("", func() (any, error) {
		if _, due, _ := c.look(unknown); due { // the flight before this one may have brought them
			c.refresh()
		}
		return nil, nil
	})
	select {
	case <-done:
	case <-ctx.Done():
		var none T
		return none, refuse(ErrUnknowable, "waiting for the %s: %v", c.what, context.Cause(ctx))
	}
	v, _, err = c.look(false)
	return v, err
}

// look is what is there, and whether a fetch is due.
func (c *cached[T]) look(unknown bool) (v T, due bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	age := now.Sub(c.got)
	old := c.got.IsZero() || age >= keysFresh || age < 0
	due = (old || unknown) && (c.tried.IsZero() || now.Sub(c.tried) >= keysRetry || now.Before(c.tried))
	if c.got.IsZero() || age >= keysStale {
		return v, due, refuse(ErrUnknowable, "the %s can't be had: %v", c.what, c.failed)
	}
	return c.value, due, nil
}

// refresh fetches. It has a limit of its own: the request that asks for it may go away while others wait.
func (c *cached[T]) refresh() {
	ctx, cancel := context.WithTimeout(context.Background(), fetchLimit)
	defer cancel()
	v, err := c.fetch(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tried, c.failed = c.now(), err
	if err != nil {
		c.warn("the "+c.what+" can't be fetched", "error", err.Error())
		return
	}
	c.value, c.got = v, c.now()
}

// keysFromFile reads a key set again whenever it is asked.
func keysFromFile(path string, algs []string) func(context.Context) (KeySet, error) {
	return func(context.Context) (KeySet, error) {
		f, err := os.Open(path)
		if err != nil {
			return KeySet{}, err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxKeySet+1))
		if err != nil {
			return KeySet{}, err
		}
		return ParseKeySet(b, algs)
	}
}

// keysFromURL fetches a key set.
func keysFromURL(client *http.Client, url string, algs []string) func(context.Context) (KeySet, error) {
	return func(ctx context.Context) (KeySet, error) {
		b, err := fetchJSON(ctx, client, url)
		if err != nil {
			return KeySet{}, err
		}
		return ParseKeySet(b, algs)
	}
}

// NewClient is an HTTP client for issuers: it follows no redirect, so that an issuer's address is the one that was
// configured, and waits for nobody long.
func NewClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout, t.MaxResponseHeaderBytes = fetchLimit, 64<<10
	t.MaxIdleConnsPerHost, t.IdleConnTimeout = 2, time.Minute
	return &http.Client{
		Transport: t, Timeout: 2 * fetchLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// fetchJSON gets a small document.
func fetchJSON(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, errors.New("no usable URL")
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", sdk.ErrUnavailable, err) // net/http masks a password in it
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: %s answers %s", sdk.ErrUnavailable, req.URL.Redacted(), resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySet+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", sdk.ErrUnavailable, err)
	}
	if len(b) > maxKeySet {
		return nil, fmt.Errorf("%s answers with more than %d bytes: %w", req.URL.Redacted(), maxKeySet, sdk.ErrInvalid)
	}
	return b, nil
}
