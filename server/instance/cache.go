package instance

import (
	"os"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// pageTokens is the number of positions in a page of the cache: small enough that a short request wastes little, large
// enough that the page table stays short.
const pageTokens = 16

// cacheSpec is the configured cache, its number of pages left open.
func cacheSpec(c config.Config) model.CacheSpec {
	dtype := map[string]tensor.DType{"f32": tensor.F32, "f16": tensor.F16, "bf16": tensor.BF16}[c.KVCache.DType]
	if dtype == tensor.Invalid {
		dtype = tensor.F32
	}
	return model.CacheSpec{PageTokens: pageTokens, DType: dtype}
}

// cacheBytes is the memory of the cache: as configured, or what the allowed requests need at their longest, but at
// most a quarter of the machine's free memory.
func cacheBytes(c config.Config, m *model.Config) int64 {
	if c.KVCache.MemoryMB > 0 {
		return int64(c.KVCache.MemoryMB) << 20
	}
	spec := cacheSpec(c)
	context := min(m.MaxPositions, c.Limits.MaxSequenceLength)
	pages := (context + pageTokens - 1) / pageTokens
	spec.Pages = 1
	want := int64(pages) * int64(c.Limits.MaxConcurrentRequests) * m.PageBytes(spec)
	return min(want, max(availableMemory()/4, 64<<20))
}

// availableMemory is what the kernel says can still be used (proc(5), MemAvailable); 4 GiB where it doesn't say.
func availableMemory() int64 {
	b, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			if kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64); err == nil {
				return kib << 10
			}
		}
	}
	return 4 << 30
}
