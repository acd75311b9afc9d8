package engine

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// chainOf allocates and publishes pages for tokens as a sequence does.
func chainOf(t *testing.T, p *pool, tenant string, tokens []int32) []int32 {
	t.Helper()
	var ids []int32
	parent := uint64(0)
	for c := range slices.Chunk(tokens, p.tokens) {
		id, ok := p.alloc()
		if !ok {
			t.Fatal("the pool is empty")
		}
		ids = append(ids, id)
		parent, _ = p.publish(id, parent, tenant, c)
	}
	return ids
}

// find follows a chain and returns the pages found.
func find(p *pool, tenant string, tokens []int32) []int32 {
	var ids []int32
	parent := uint64(0)
	for c := range slices.Chunk(tokens, p.tokens) {
		id, ok := p.lookup(parent, tenant, c)
		if !ok {
			return ids
		}
		ids = append(ids, id)
		parent = p.pages[id].serial
	}
	return ids
}

func TestPrefixChain(t *testing.T) {
	p := newPool(16, 2)
	ids := chainOf(t, p, "a", []int32{1, 2, 3, 4, 5, 6})
	for _, test := range []struct {
		name   string
		tenant string
		tokens []int32
		want   []int32
	}{
		{"the same prompt", "a", []int32{1, 2, 3, 4, 5, 6}, ids},
		{"the same beginning", "a", []int32{1, 2, 3, 4, 9, 9}, ids[:2]},
		{"another tenant", "b", []int32{1, 2, 3, 4, 5, 6}, nil},
		{"a page of the middle at the beginning", "a", []int32{3, 4, 5, 6}, nil},
		{"a page behind another one", "a", []int32{1, 2, 5, 6}, ids[:1]},
	} {
		if got := find(p, test.tenant, test.tokens); !slices.Equal(got, test.want) {
			t.Errorf("%s: pages %v, want %v", test.name, got, test.want)
		}
	}
}

// With a hash that always collides only equal content is found, and chains of other content are not continued.
func TestPrefixCollision(t *testing.T) {
	p := newPool(16, 2)
	p.hash = func(string, []int32) uint64 { return 7 }
	ids := chainOf(t, p, "a", []int32{1, 2, 3, 4})
	if got := find(p, "a", []int32{1, 2, 3, 4}); !slices.Equal(got, ids) {
		t.Errorf("the chain itself: %v, want %v", got, ids)
	}
	if got := find(p, "a", []int32{1, 3}); got != nil {
		t.Errorf("another content was found: %v", got)
	}
	if got := find(p, "b", []int32{1, 2}); got != nil {
		t.Errorf("another tenant's page was found: %v", got)
	}
	id, _ := p.alloc()
	if _, ok := p.publish(id, 0, "b", []int32{1, 2}); ok {
		t.Error("a chain was continued behind a page of other content")
	}
}

func TestPoolForgetsLeastRecentlyUsedTailsFirst(t *testing.T) {
	p := newPool(4, 1)
	a := chainOf(t, p, "", []int32{1, 2})
	b := chainOf(t, p, "", []int32{5, 6})
	p.release(a)
	p.release(b)
	if p.available() != 4 || p.idle != 4 {
		t.Fatalf("%d available, %d idle, want 4 and 4", p.available(), p.idle)
	}
	p.retain(a[0]) // used again: now b's pages are the oldest but for a's tail
	p.release(a[:1])
	var order []int32
	for range 4 {
		id, ok := p.alloc()
		if !ok {
			t.Fatal("an idle page was not given out")
		}
		order = append(order, id)
	}
	if want := []int32{a[1], b[1], b[0], a[0]}; !slices.Equal(order, want) {
		t.Errorf("pages were forgotten in order %v, want %v", order, want)
	}
	if _, ok := p.alloc(); ok {
		t.Error("a page was given out twice")
	}
	if len(p.index) != 0 {
		t.Errorf("%d pages are indexed, want none", len(p.index))
	}
}

// Random sequences of operations against a model that keeps contents in a map: a page found has the content asked for,
// and no page is lost or given out twice.
func TestPoolRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const pages, tokens = 12, 2
	p := newPool(pages, tokens)
	content := map[int32][]int32{} // what the owner wrote last
	var held [][]int32
	for range 20_000 {
		if len(held) > 0 && r.IntN(2) == 0 {
			i := r.IntN(len(held))
			p.release(held[i])
			held = slices.Delete(held, i, i+1)
			continue
		}
		want := make([]int32, tokens*(1+r.IntN(3)))
		for i := range want {
			want[i] = int32(r.IntN(3))
		}
		got := find(p, "", want)
		for i, id := range got {
			p.retain(id)
			if !slices.Equal(content[id], want[i*tokens:(i+1)*tokens]) {
				t.Fatalf("page %d has %v, found for %v", id, content[id], want)
			}
		}
		parent := uint64(0)
		if len(got) > 0 {
			parent = p.pages[got[len(got)-1]].serial
		}
		for i := len(got); i*tokens < len(want); i++ {
			id, ok := p.alloc()
			if !ok {
				break
			}
			content[id] = want[i*tokens : (i+1)*tokens]
			parent, _ = p.publish(id, parent, "", content[id])
			got = append(got, id)
		}
		held = append(held, got)
		checkPool(t, p, held)
	}
}

// checkPool compares the pool's counts with what is held.
func checkPool(t *testing.T, p *pool, held [][]int32) {
	t.Helper()
	refs := map[int32]int32{}
	for _, h := range held {
		for _, id := range h {
			refs[id]++
		}
	}
	for id := range p.pages {
		if p.pages[id].refs != refs[int32(id)] {
			t.Fatalf("page %d has %d references, want %d", id, p.pages[id].refs, refs[int32(id)])
		}
	}
	if got := p.available(); got != len(p.pages)-len(refs) {
		t.Fatalf("%d pages available, want %d", got, len(p.pages)-len(refs))
	}
}
