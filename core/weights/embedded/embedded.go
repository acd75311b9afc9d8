// Package embedded carries pimoe-tiny, a trained 10 M-parameter Mixture-of-Experts model, inside the executable, so
// that a clone is enough to serve something real.
//
// core/weights imports it into the store, and nobody else needs it. A program that never asks for Files is linked
// without the model. The package refuses to interpret the files: it is bytes and a name.
package embedded

import (
	"embed"
	"io/fs"
)

// Name is the model's name in the store and its id in the API.
const Name = "pimoe-tiny"

// The files are listed one by one, so that the folder's documentation and golden answers stay out of the executable.
//
//go:embed pimoe-tiny/config.json pimoe-tiny/generation_config.json pimoe-tiny/chat_template.jinja
//go:embed pimoe-tiny/model.safetensors
//go:embed pimoe-tiny/tokenizer.json pimoe-tiny/tokenizer_config.json pimoe-tiny/special_tokens_map.json
var files embed.FS

// HeldOut are texts that the model was not trained on, as JSON: lists by name under "documents".
//
//go:embed pimoe-tiny/heldout.json
var HeldOut []byte

// Files is the model's folder, laid out as Hugging Face lays it out: config.json lies at its root.
func Files() fs.FS {
	sub, err := fs.Sub(files, Name)
	if err != nil {
		panic("embedded: the folder's name is not a valid path")
	}
	return sub
}
