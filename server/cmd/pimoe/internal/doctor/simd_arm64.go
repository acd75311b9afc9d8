package doctor

import "golang.org/x/sys/cpu"

// simd names the instruction sets that PiMoE has or plans kernels for.
func simd() []string {
	var out []string
	for _, s := range []struct {
		name string
		has  bool
	}{
		{"asimd", cpu.ARM64.HasASIMD}, {"asimddp", cpu.ARM64.HasASIMDDP}, {"asimdhp", cpu.ARM64.HasASIMDHP}, {"sve", cpu.ARM64.HasSVE}, {"sve2", cpu.ARM64.HasSVE2},
	} {
		if s.has {
			out = append(out, s.name)
		}
	}
	return out
}
