package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/pimoe/pimoe/sdk"
)

// postProcessor puts special tokens around the ids of a text.
type postProcessor interface {
	process(ids []int32, special bool) []int32
}

func parsePost(path string, raw json.RawMessage, token func(int32) (string, bool), depth int) (postProcessor, error) {
	f, typ, err := kind(path, raw, depth)
	if err != nil {
		return nil, err
	}
	var p postProcessor
	switch typ {
	case "Sequence":
		var seq postSequence
		for i, part := range f.list("processors") {
			q, err := parsePost(fmt.Sprintf("%s.processors[%d]", path, i), part, token, depth+1)
			if err != nil {
				return nil, err
			}
			seq = append(seq, q)
		}
		p = seq
	case "ByteLevel": // changes offsets only
		f.flag("add_prefix_space", true)
		f.flag("trim_offsets", true)
		f.flag("use_regex", true)
		p = postSequence{}
	case "TemplateProcessing":
		p = parseTemplateProcessing(f, token)
	case "BertProcessing", "RobertaProcessing":
		f.flag("trim_offsets", true)
		f.flag("add_prefix_space", true)
		p = around{[]int32{pairID(f, "cls", token)}, []int32{pairID(f, "sep", token)}}
	default:
		return nil, unknown(path, typ)
	}
	return p, f.end()
}

type postSequence []postProcessor

func (s postSequence) process(ids []int32, special bool) []int32 {
	for _, p := range s {
		ids = p.process(ids, special)
	}
	return ids
}

// around is what a template for one text comes down to: ids before and after it.
type around struct{ before, after []int32 }

func (a around) process(ids []int32, special bool) []int32 {
	if !special || len(a.before)+len(a.after) == 0 {
		return ids
	}
	return slices.Concat(a.before, ids, a.after)
}

func parseTemplateProcessing(f *fields, token func(int32) (string, bool)) postProcessor {
	f.take("pair") // this tokenizer encodes one text at a time
	table := map[string]struct {
		ID     string   `json:"id"`
		IDs    []int32  `json:"ids"`
		Tokens []string `json:"tokens"`
	}{}
	f.into("special_tokens", &table)
	var parts []map[string]struct {
		ID   string `json:"id"`
		Type int    `json:"type_id"`
	}
	f.need("single", &parts)
	var a around
	texts := 0
	for i, part := range parts {
		special, isSpecial := part["SpecialToken"]
		text, isText := part["Sequence"]
		switch {
		case len(part) != 1 || isText && text.ID != "A" || !isText && !isSpecial:
			f.fail("single[%d]: not a special token or the sequence A: %w", i, sdk.ErrUnsupported)
		case isText:
			texts++
		default:
			entry, ok := table[special.ID]
			if !ok {
				f.fail("single[%d]: special token %q is not in special_tokens: %w", i, special.ID, sdk.ErrInvalid)
			}
			for _, id := range entry.IDs {
				if _, ok := token(id); !ok {
					f.fail("single[%d]: no token has id %d: %w", i, id, sdk.ErrInvalid)
				}
			}
			if texts == 0 {
				a.before = append(a.before, entry.IDs...)
			} else {
				a.after = append(a.after, entry.IDs...)
			}
		}
	}
	if texts != 1 {
		f.fail("single: the text is there %d times: %w", texts, sdk.ErrUnsupported)
	}
	return a
}

// pairID reads ["token", id].
func pairID(f *fields, key string, token func(int32) (string, bool)) int32 {
	var entry []json.RawMessage
	var text string
	var id int32
	f.need(key, &entry)
	if f.err != nil {
		return 0
	}
	if len(entry) != 2 || json.Unmarshal(entry[0], &text) != nil || json.Unmarshal(entry[1], &id) != nil {
		f.fail("%s is not [token, id]: %w", key, sdk.ErrInvalid)
		return 0
	}
	if got, ok := token(id); !ok || got != text {
		f.fail("%s: id %d is not %q: %w", key, id, text, sdk.ErrInvalid)
	}
	return id
}
