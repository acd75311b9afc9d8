package main

import (
	"fmt"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/int8"
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
			b, err := backendNamed(backend)
			if err != nil {
				return nil, err
			}
			return ffn.New(b, ffn.Options{Version: version}), nil
		},
		Router: func(name string) (router.Router, error) {
			if name == "model" {
				return modelrouter.New(), nil
			}
			return nil, fmt.Errorf("router %q is no part of this program (model is); use --isolation process: %w", name, sdk.ErrUnsupported)
		},
	}
}

// backendNamed is a backend of this program.
func backendNamed(name string) (backends.Backend, error) {
	switch name {
	case "cpu":
		return cpu.New(), nil
	case "int8":
		return int8.New(), nil
	case "ref":
		return ref.New(), nil
	}
	return nil, fmt.Errorf("backend %q is no part of this program (cpu, int8 and ref are); use --isolation process: %w", name, sdk.ErrUnsupported)
}
