package main

import (
	"fmt"

	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/ref"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	modelrouter "github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/server/instance"
)

// builtin lists what this program links: the same code as the plugins, for --isolation inproc and the stand-in.
func builtin() instance.Builtin {
	return instance.Builtin{
		Expert: func(backend string) (expert.Expert, error) {
			switch backend {
			case "cpu":
				return ffn.New(cpu.New(), ffn.Options{Version: version}), nil
			case "ref":
				return ffn.New(ref.New(), ffn.Options{Version: version}), nil
			}
			return nil, fmt.Errorf("backend %q is no part of this program (cpu and ref are); use --isolation process: %w", backend, sdk.ErrUnsupported)
		},
		Router: func(name string) (router.Router, error) {
			if name == "model" {
				return modelrouter.New(), nil
			}
			return nil, fmt.Errorf("router %q is no part of this program (model is); use --isolation process: %w", name, sdk.ErrUnsupported)
		},
	}
}
