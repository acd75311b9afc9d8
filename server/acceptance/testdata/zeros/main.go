// Command zeros is an expert plugin that answers every call with zeros: the acceptance tests use it to see that the
// tokens depend on what the processes compute.
package main

import (
	"context"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/serve"
)

type zeros struct{}

func (zeros) Info() sdk.Info {
	return sdk.Info{Name: "zeros", Kind: sdk.KindExpert, Version: "1"}
}

func (zeros) Load(context.Context, expert.Spec) error { return nil }

func (zeros) Forward(_ context.Context, call *expert.Call) error {
	for r := range call.Y.Rows {
		clear(call.Y.Row(r))
	}
	return nil
}

func (zeros) Close() error { return nil }

func main() { serve.Expert(zeros{}) }
