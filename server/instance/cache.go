package instance

import (
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// pageTokens is the number of positions in a page of the cache: small enough that a short request wastes little, large
// enough that the page table stays short.
const pageTokens = 16

// cacheSpec is the configured cache, its number of pages left to the engine.
func cacheSpec(c config.Config) model.CacheSpec {
	dtype := map[string]tensor.DType{"f16": tensor.F16, "bf16": tensor.BF16}[c.KVCache.DType]
	if dtype == tensor.Invalid {
		dtype = tensor.F32
	}
	return model.CacheSpec{PageTokens: pageTokens, DType: dtype}
}
