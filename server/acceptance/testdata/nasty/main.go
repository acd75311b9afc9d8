// Command nasty is an expert plugin that misbehaves in the way that the name of its executable says.
package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/serve"
)

type nasty struct {
	mode  string
	calls atomic.Int64
}

func (n *nasty) Info() sdk.Info {
	return sdk.Info{Name: "nasty", Kind: sdk.KindExpert, Version: "1"}
}

func (n *nasty) Load(context.Context, expert.Spec) error {
	switch n.mode {
	case "hangs-in-load":
		time.Sleep(time.Hour)
	case "refuses-load":
		return fmt.Errorf("layer 0 expert 0: gate is cursed: %w", sdk.ErrInvalid)
	case "dies-in-load":
		fmt.Fprintln(os.Stderr, "last words of a plugin")
		os.Exit(7)
	}
	return nil
}

func (n *nasty) Forward(_ context.Context, call *expert.Call) error {
	for r := range call.Y.Rows {
		clear(call.Y.Row(r))
	}
	if n.mode == "answers-nan" || n.mode == "nan-later" && n.calls.Add(1) > 40 {
		call.Y.Row(0)[0] = float32(math.NaN())
	}
	return nil
}

func (n *nasty) Close() error { return nil }

func main() {
	mode := strings.TrimPrefix(filepath.Base(os.Args[0]), "nasty-")
	switch mode {
	case "exits-at-once":
		fmt.Fprintln(os.Stderr, "I do not want to")
		os.Exit(3)
	case "prints-first":
		fmt.Println("hello, I am a plugin")
		time.Sleep(time.Hour)
	case "wrong-protocol":
		fmt.Println("1|99|unix|/nowhere|grpc|")
		time.Sleep(time.Hour)
	case "hangs-at-start":
		time.Sleep(time.Hour)
	}
	serve.Expert(&nasty{mode: mode})
}
