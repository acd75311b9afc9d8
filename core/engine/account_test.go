package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// book is an account that notes what it is told.
type book struct {
	mu    sync.Mutex // guards all
	rows  map[string]int
	under bool
	wrong string // the first call out of order
}

func (b *book) note(ok bool, what string) {
	if !ok && b.wrong == "" {
		b.wrong = what
	}
}

func (b *book) Begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note(!b.under, "Begin after Begin")
	b.under = true
}

func (b *book) Rows(tenant string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note(b.under && n > 0, "Rows out of a step")
	b.rows[tenant] += n
}

func (b *book) End() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note(b.under, "End before Begin")
	b.under = false
}

// Each tenant is charged with the rows that were computed for it, whether or not the step came to an end, and with no row out of
// the cache.
func TestAccount(t *testing.T) {
	f, b := newFake(64, 4), &book{rows: map[string]int{}}
	failing := errors.New("a step that fails")
	fails := false
	f.before = func(context.Context, []model.Span) error {
		if fails {
			return fmt.Errorf("%w: %w", failing, sdk.ErrUnavailable)
		}
		return nil
	}
	s := testSetup(f)
	s.account = b
	e := launchTest(t, f, s)
	ask := func(tenant string, n int) answer {
		t.Helper()
		r := plain(tenant, prompt("p", n), 4)
		r.Tenant = tenant
		st, err := e.Submit(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return read(t.Context(), st)
	}
	want := map[string]int{}
	for i := range 4 {
		tenant := fmt.Sprint("t", i%2)
		before := f.rows.Load()
		if a := ask(tenant, 10); a.err != nil {
			t.Fatal(a.err)
		}
		want[tenant] += int(f.rows.Load() - before)
	}
	if want["t0"] >= 2*(10+3) {
		t.Errorf("%d rows: the second request took nothing out of the cache", want["t0"])
	}
	x := tensor.MatrixOf(2, 2, []float32{1, 2, 3, 4})
	if _, _, _, err := e.Hidden(For(t.Context(), "t2", Normal), -1, x, true, moe.AcceptExact); err != nil {
		t.Fatal(err)
	}
	want["t2"] = 2 * 2 // rows in two layers
	fails = true
	if a := ask("t3", 6); !errors.Is(a.err, failing) {
		t.Errorf("%v", a.err)
	}
	want["t3"] = 6
	b.mu.Lock()
	defer b.mu.Unlock()
	if fmt.Sprint(b.rows) != fmt.Sprint(want) || b.wrong != "" || b.under {
		t.Errorf("charged %v, want %v; %s", b.rows, want, b.wrong)
	}
}
