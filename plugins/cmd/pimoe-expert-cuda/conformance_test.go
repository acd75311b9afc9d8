//go:build cuda && cgo

package main

import (
	"testing"

	"github.com/pimoe/pimoe/backends/cuda"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/sdktest"
)

// TestConformance holds the expert to its contract, in this process and over the wire.
func TestConformance(t *testing.T) {
	backend := cuda.New(cuda.Options{})
	t.Cleanup(func() {
		if err := backend.Close(); err != nil {
			t.Error(err)
		}
	})
	sdktest.TestExpert(t, func() expert.Expert { return ffn.New(backend, ffn.Options{Version: "1"}) })
}
