// Package preflight starts the CUDA driver before gorgonia.org/cu does: that package ends the process with a line on standard
// output where there is no driver or no device, which a host takes for a broken plugin. This one says why on standard error and
// exits with 78. Package cuda imports it; packages are initialised in the order of their import paths, and github.com comes
// before gorgonia.org.
//
// It refuses to know more of CUDA than how it starts.
package preflight

// ExitCode is that of a program that can't compute here, whoever says so (EX_CONFIG of sysexits.h).
const ExitCode = 78
