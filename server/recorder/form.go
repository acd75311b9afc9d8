package recorder

import (
	"fmt"

	"github.com/pimoe/pimoe/core/grammar"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/replay"
)

// FormOf is the form that a record names.
func FormOf(f *replay.Form) (grammar.Form, error) {
	switch {
	case f.Kind == "regex":
		return grammar.Regex(f.Text), nil
	case f.Kind == "grammar":
		return grammar.GBNF(f.Text), nil
	case f.Kind == "json_schema" && f.Schema != nil:
		return grammar.JSON(f.Schema), nil
	case f.Kind == "json_schema", f.Kind == "json_object":
		return grammar.JSON([]byte(`{"type":"object"}`)), nil
	case f.Kind == replay.Tools:
		return grammar.Form{}, fmt.Errorf("form.kind: an answer that was held to calls of tools can't be run again: its form is made of the request, which a record does not have: %w", sdk.ErrUnsupported)
	}
	return grammar.Form{}, fmt.Errorf("form.kind: %.40q is none of json_object, json_schema, regex, grammar and tools: %w", f.Kind, sdk.ErrInvalid)
}
