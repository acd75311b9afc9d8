package model

import (
	"fmt"
	"math"

	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// CacheSpec is the size and storage type of a Cache.
type CacheSpec struct {
	Pages      int          // number of pages
	PageTokens int          // tokens in a page, a multiple of PageUnit up to 4096
	DType      tensor.DType // F32, F16 or BF16
}

// PageUnit divides a page's tokens: attention computes with so many keys at once, and a page has them side by side.
const PageUnit = vec.BlockTokens

// Cache holds keys and values of all sequences, in pages of PageTokens tokens. A page id means the same page in every
// layer; which sequence owns which pages is the engine's business. Attention reads keys and values only from here, so
// a row sees the rounded values of its own chunk just as later rows do.
//
// A page has keys as [kv head][block of tokens][dim][token], so that one vector is one dimension of a block's keys, and
// values as [kv head][token][dim], with dim rounded up to whole vectors.
type Cache struct {
	spec    CacheSpec
	kvHeads int
	headDim int
	width   int // of a token's values
	layers  []cacheLayer
	arena   *arena
}

// cacheLayer is one layer's keys and values.
type cacheLayer struct{ k, v vec.Store }

// valueWidth is a head's dimensions in whole vectors.
func (c *Config) valueWidth() int { return (c.HeadDim + vec.BlockTokens - 1) &^ (vec.BlockTokens - 1) }

// PageBytes is the memory that one page takes over all layers.
func (c *Config) PageBytes(spec CacheSpec) int64 {
	return int64(c.Layers) * int64(spec.PageTokens) * int64(c.KVHeads) * int64(c.HeadDim+c.valueWidth()) * int64(spec.DType.Size())
}

// NewCache makes an empty cache, which the caller must Close. Its memory is outside Go's heap, and what was never
// written is not resident.
func (c *Config) NewCache(spec CacheSpec) (*Cache, error) {
	switch spec.DType {
	case tensor.F32, tensor.F16, tensor.BF16:
	default:
		return nil, fmt.Errorf("kv cache: dtype %s, want F32, F16 or BF16: %w", spec.DType, sdk.ErrUnsupported)
	}
	if spec.Pages < 1 || spec.PageTokens < 1 || spec.PageTokens > 4096 || spec.PageTokens%PageUnit != 0 {
		return nil, fmt.Errorf("kv cache: %d pages of %d tokens, want a multiple of %d up to 4096: %w",
			spec.Pages, spec.PageTokens, PageUnit, sdk.ErrInvalid)
	}
	cache := &Cache{spec: spec, kvHeads: c.KVHeads, headDim: c.HeadDim, width: c.valueWidth(), layers: make([]cacheLayer, c.Layers)}
	elems := int64(spec.PageTokens) * int64(c.KVHeads) * int64(cache.width)
	if int64(spec.Pages) > math.MaxInt32 || elems > math.MaxInt32 || elems*int64(spec.Pages) > 1<<40 {
		return nil, fmt.Errorf("kv cache: %d pages of %d tokens are more than can be addressed: %w",
			spec.Pages, spec.PageTokens, sdk.ErrInvalid)
	}
	n := spec.Pages * spec.PageTokens * c.KVHeads
	keys, values, size := n*c.HeadDim, n*cache.width, spec.DType.Size()
	var err error
	if cache.arena, err = newArena(c.Layers * (arenaBytes(keys*size) + arenaBytes(values*size))); err != nil {
		return nil, fmt.Errorf("kv cache: %w: %w", sdk.ErrOverloaded, err)
	}
	for i := range cache.layers {
		cache.layers[i] = cacheLayer{cache.store(keys), cache.store(values)}
	}
	return cache, nil
}

// store takes room for n values from the arena.
func (c *Cache) store(n int) vec.Store {
	if c.spec.DType == tensor.F32 {
		return vec.Store{DType: c.spec.DType, F: arenaSlice[float32](c.arena, n)}
	}
	return vec.Store{DType: c.spec.DType, H: arenaSlice[uint16](c.arena, n)}
}

// Close gives the cache's memory back. No Forward may use the cache then or later. It is safe to call it more than once.
func (c *Cache) Close() error {
	c.layers = nil // a use after this is an error of the trunk, not a fault of the process
	return c.arena.close()
}

// Spec is what the cache was made with.
func (c *Cache) Spec() CacheSpec { return c.spec }

// slot is where a token of a kv head comes among all tokens of all pages and kv heads.
func (c *Cache) slot(pages []int32, head, position int) int {
	t := c.spec.PageTokens
	return (int(pages[position/t])*c.kvHeads+head)*t + position%t
}

// put stores one head's key and value at a position of a sequence.
func (c *Cache) put(layer int, pages []int32, head, position int, k, v []float32) {
	l, slot := &c.layers[layer], c.slot(pages, head, position)
	l.k.PutColumn(slot&^(PageUnit-1)*c.headDim+slot%PageUnit, k)
	l.v.PutRow(slot*c.width, v)
}

// blocks appends where keys and values of the blocks from the one with position from to the one before position to lie.
func (c *Cache) blocks(k, v []int, pages []int32, head, from, to int) (keys, values []int) {
	for p := from &^ (PageUnit - 1); p < to; p += PageUnit {
		slot := c.slot(pages, head, p)
		k, v = append(k, slot*c.headDim), append(v, slot*c.width)
	}
	return k, v
}
