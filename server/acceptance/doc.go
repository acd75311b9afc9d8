// Package acceptance holds the tests of the whole product as its users run it: real plugin processes, the real store
// and, where the promise is about the program, the real executable. It has no code of its own.
//
// Developers and CI use it; the long versions of its tests are the Makefile's targets chaos, chaos-host and soak. It refuses to be
// linked into anything.
package acceptance
