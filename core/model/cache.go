package model

import (
	"fmt"
	"math"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// CacheSpec is the size and storage type of a Cache.
type CacheSpec struct {
	Pages      int          // number of pages
	PageTokens int          // tokens in a page, 1 to 4096
	DType      tensor.DType // F32, F16 or BF16
}

// Cache holds keys and values of all sequences, in pages of PageTokens tokens. A page id means the same page in every
// layer; which sequence owns which pages is the engine's business. Attention reads keys and values only from here, so
// a row sees the rounded values of its own chunk just as later rows do.
type Cache struct {
	spec    CacheSpec
	kvHeads int
	headDim int
	layers  []cacheLayer
	arena   *arena
}

// cacheLayer is one layer's keys and values, laid out [page][kv head][token][dim], in one of the two forms.
type cacheLayer struct {
	k32, v32 []float32
	k16, v16 []uint16
}

// PageBytes is the memory that one page takes over all layers.
func (c *Config) PageBytes(spec CacheSpec) int64 {
	return 2 * int64(c.Layers) * int64(spec.PageTokens) * int64(c.KVHeads) * int64(c.HeadDim) * int64(spec.DType.Size())
}

// NewCache makes an empty cache, which the caller must Close. Its memory is outside Go's heap, and what was never
// written is not resident.
func (c *Config) NewCache(spec CacheSpec) (*Cache, error) {
	switch spec.DType {
	case tensor.F32, tensor.F16, tensor.BF16:
	default:
		return nil, fmt.Errorf("kv cache: dtype %s, want F32, F16 or BF16: %w", spec.DType, sdk.ErrUnsupported)
	}
	if spec.Pages < 1 || spec.PageTokens < 1 || spec.PageTokens > 4096 {
		return nil, fmt.Errorf("kv cache: %d pages of %d tokens: %w", spec.Pages, spec.PageTokens, sdk.ErrInvalid)
	}
	elems := int64(spec.PageTokens) * int64(c.KVHeads) * int64(c.HeadDim)
	if int64(spec.Pages) > math.MaxInt32 || elems > math.MaxInt32 || elems*int64(spec.Pages) > 1<<40 {
		return nil, fmt.Errorf("kv cache: %d pages of %d tokens are more than can be addressed: %w",
			spec.Pages, spec.PageTokens, sdk.ErrInvalid)
	}
	cache := &Cache{spec: spec, kvHeads: c.KVHeads, headDim: c.HeadDim, layers: make([]cacheLayer, c.Layers)}
	n := int(elems) * spec.Pages
	var err error
	if cache.arena, err = newArena(2 * c.Layers * arenaBytes(n*spec.DType.Size())); err != nil {
		return nil, fmt.Errorf("kv cache: %w: %w", sdk.ErrOverloaded, err)
	}
	for i := range cache.layers {
		l := &cache.layers[i]
		if spec.DType == tensor.F32 {
			l.k32, l.v32 = arenaSlice[float32](cache.arena, n), arenaSlice[float32](cache.arena, n)
		} else {
			l.k16, l.v16 = arenaSlice[uint16](cache.arena, n), arenaSlice[uint16](cache.arena, n)
		}
	}
	return cache, nil
}

// Close gives the cache's memory back. No Forward may use the cache then or later. It is safe to call it more than once.
func (c *Cache) Close() error {
	c.layers = nil // a use after this is an error of the trunk, not a fault of the process
	return c.arena.close()
}

// Spec is what the cache was made with.
func (c *Cache) Spec() CacheSpec { return c.spec }

// offset is where the block [token][dim] of a page and a kv head starts.
func (c *Cache) offset(page int32, head int) int {
	return (int(page)*c.kvHeads + head) * c.spec.PageTokens * c.headDim
}

// put stores one row of keys and one of values, [kv heads x dim], at a token of a page.
func (c *Cache) put(layer int, page int32, token int, k, v []float32) {
	l := &c.layers[layer]
	for h := range c.kvHeads {
		at := c.offset(page, h) + token*c.headDim
		src := h * c.headDim
		switch c.spec.DType {
		case tensor.F32:
			copy(l.k32[at:at+c.headDim], k[src:])
			copy(l.v32[at:at+c.headDim], v[src:])
		case tensor.BF16:
			toBF16(l.k16[at:at+c.headDim], k[src:])
			toBF16(l.v16[at:at+c.headDim], v[src:])
		default:
			toF16(l.k16[at:at+c.headDim], k[src:])
			toF16(l.v16[at:at+c.headDim], v[src:])
		}
	}
}

// keys returns the first n tokens of a page and kv head as float32: the cache itself, or buf filled with them.
func (c *Cache) keys(layer int, page int32, head, n int, buf []float32) []float32 {
	l := &c.layers[layer]
	return c.read(l.k32, l.k16, c.offset(page, head), n*c.headDim, buf)
}

func (c *Cache) values(layer int, page int32, head, n int, buf []float32) []float32 {
	l := &c.layers[layer]
	return c.read(l.v32, l.v16, c.offset(page, head), n*c.headDim, buf)
}

func (c *Cache) read(f []float32, h []uint16, at, n int, buf []float32) []float32 {
	switch c.spec.DType {
	case tensor.F32:
		return f[at : at+n]
	case tensor.BF16:
		fromBF16(buf[:n], h[at:at+n])
	default:
		fromF16(buf[:n], h[at:at+n])
	}
	return buf[:n]
}
