package engine

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
)

// pool hands out the pages of the key and value cache and remembers which full pages hold which tokens, so that a
// later request with the same beginning takes them over. A page is in one of three states: free (nobody needs its
// content), used (referenced by at least one sequence) or idle (referenced by nobody, but its content is indexed and
// can be taken over until the page is given to somebody else, least recently used first).
//
// A page is indexed under its tokens and the serial of the page before it; serials are never used twice, so a chain of
// them stands for one whole prefix. The first page of a chain also carries the tenant. Tokens and tenant are compared,
// not only their hashes. An indexed page is never written again.
//
// The pool knows only numbers; the loop owns it.
type pool struct {
	tokens int // per page
	pages  []page
	free   []int32
	index  map[pageKey]int32
	serial uint64
	idle   int
	oldest int32 // ends of the list of idle pages; -1 = empty
	newest int32
	hash   func(tenant string, tokens []int32) uint64
}

// page is one page's book-keeping.
type page struct {
	refs       int32
	serial     uint64 // 0 = not indexed
	key        pageKey
	tenant     string
	content    []int32
	prev, next int32 // in the list of idle pages; -1 = none
}

// pageKey finds a page: the serial of the page before it (0 = it begins a chain) and a hash of its content.
type pageKey struct{ parent, hash uint64 }

// newPool makes a pool of n free pages.
func newPool(n, tokens int) *pool {
	seed := maphash.MakeSeed() // a secret seed: nobody can craft prompts whose pages collide
	p := &pool{tokens: tokens, pages: make([]page, n), free: make([]int32, n), index: make(map[pageKey]int32, n), oldest: -1, newest: -1}
	p.hash = func(tenant string, tokens []int32) uint64 { return hashPage(seed, tenant, tokens) }
	content := make([]int32, n*tokens)
	for i := range n {
		p.free[n-1-i] = int32(i)
		p.pages[i].content = content[i*tokens : i*tokens : (i+1)*tokens]
	}
	return p
}

// need is the number of pages that hold n tokens.
func (p *pool) need(n int) int { return (n + p.tokens - 1) / p.tokens }

// available is how many pages alloc can give before it fails.
func (p *pool) available() int { return len(p.free) + p.idle }

// trim forgets all idle pages and lists the free ones.
func (p *pool) trim() []int32 {
	for p.oldest >= 0 {
		id := p.oldest
		p.unlink(id)
		p.forget(id)
		p.free = append(p.free, id)
	}
	return p.free
}

// alloc gives a page with one reference and undefined content. It takes a free page, else it forgets the idle page
// that has been unused for longest.
func (p *pool) alloc() (int32, bool) {
	var id int32
	switch {
	case len(p.free) > 0:
		id = p.free[len(p.free)-1]
		p.free = p.free[:len(p.free)-1]
	case p.oldest >= 0:
		id = p.oldest
		p.unlink(id)
		p.forget(id)
	default:
		return -1, false
	}
	p.pages[id].refs = 1
	return id, true
}

// retain adds a reference to a used or idle page.
func (p *pool) retain(id int32) {
	if p.pages[id].refs == 0 {
		p.unlink(id)
	}
	p.pages[id].refs++
}

// release drops the references of a sequence that held these pages, in their order. The last page becomes idle first
// and is therefore forgotten first: a chain without its beginning is of no use.
func (p *pool) release(ids []int32) {
	for _, id := range slices.Backward(ids) {
		pg := &p.pages[id]
		if pg.refs--; pg.refs > 0 {
			continue
		}
		if pg.serial == 0 {
			p.free = append(p.free, id)
		} else {
			p.link(id)
		}
	}
}

// lookup finds the page that holds tokens after the chain that ends with parent. It takes no reference.
func (p *pool) lookup(parent uint64, tenant string, tokens []int32) (int32, bool) {
	id, ok := p.index[pageKey{parent, p.hash(tenant, tokens)}]
	if !ok || p.pages[id].tenant != tenant || !slices.Equal(p.pages[id].content, tokens) {
		return -1, false
	}
	return id, true
}

// publish indexes a full page after the chain that ends with parent and returns the serial that stands for the chain
// from now on. When another page already holds the same content that one stays in the index and its serial is
// returned. ok is false when a different content has the same hash: the chain can't be continued.
func (p *pool) publish(id int32, parent uint64, tenant string, tokens []int32) (serial uint64, ok bool) {
	key := pageKey{parent, p.hash(tenant, tokens)}
	if other, taken := p.index[key]; taken {
		o := &p.pages[other]
		return o.serial, o.tenant == tenant && slices.Equal(o.content, tokens)
	}
	p.serial++
	pg := &p.pages[id]
	pg.serial, pg.key, pg.tenant = p.serial, key, tenant
	pg.content = append(pg.content[:0], tokens...)
	p.index[key] = id
	return p.serial, true
}

// forget takes a page out of the index.
func (p *pool) forget(id int32) {
	pg := &p.pages[id]
	delete(p.index, pg.key)
	pg.serial, pg.key, pg.tenant, pg.content = 0, pageKey{}, "", pg.content[:0]
}

// link puts a page at the new end of the list of idle pages.
func (p *pool) link(id int32) {
	pg := &p.pages[id]
	pg.prev, pg.next = p.newest, -1
	if p.newest >= 0 {
		p.pages[p.newest].next = id
	} else {
		p.oldest = id
	}
	p.newest = id
	p.idle++
}

// unlink takes a page out of the list of idle pages.
func (p *pool) unlink(id int32) {
	pg := &p.pages[id]
	if pg.prev >= 0 {
		p.pages[pg.prev].next = pg.next
	} else {
		p.oldest = pg.next
	}
	if pg.next >= 0 {
		p.pages[pg.next].prev = pg.prev
	} else {
		p.newest = pg.prev
	}
	p.idle--
}

// hashPage hashes a page's content with the tenant in front.
func hashPage(seed maphash.Seed, tenant string, tokens []int32) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	h.WriteString(tenant)
	var b [5]byte // the first byte ends the tenant: no name runs into the tokens
	b[0] = 0xff
	for _, t := range tokens {
		binary.LittleEndian.PutUint32(b[1:], uint32(t))
		h.Write(b[:])
	}
	return h.Sum64()
}
