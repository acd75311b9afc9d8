package openai

import (
	"math"

	"github.com/pimoe/pimoe/server/strictjson"
)

// maxIDs bounds a prompt of token ids, and a list of prompts: the longest contexts of models that there are. Text has no such bound.
const maxIDs = 1 << 17

// prompts reads the four forms of a prompt: a string, strings, token ids, lists of token ids.
func prompts(r *Request, v strictjson.Value) error {
	if v.IsString() {
		s, err := v.Text()
		r.Prompts = []Prompt{{Text: s}}
		return err
	}
	if !v.IsArray() {
		return v.Errorf("a string, an array of strings, an array of token ids or an array of such arrays")
	}
	list, err := v.ArrayUpTo(maxIDs)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return v.Errorf("at least one prompt")
	}
	if list[0].IsNumber() {
		ids, err := tokenIDs(list)
		r.Prompts = []Prompt{{IDs: ids}}
		return err
	}
	for _, e := range list {
		p, err := onePrompt(e, list[0].IsString())
		if err != nil {
			return err
		}
		r.Prompts = append(r.Prompts, p)
	}
	return nil
}

// onePrompt reads an element of a list of prompts; all are of the kind of the first.
func onePrompt(v strictjson.Value, isText bool) (Prompt, error) {
	if isText {
		s, err := v.Text()
		return Prompt{Text: s}, err
	}
	if !v.IsArray() {
		return Prompt{}, v.Errorf("an array of token ids")
	}
	list, err := v.ArrayUpTo(maxIDs)
	if err != nil {
		return Prompt{}, err
	}
	if len(list) == 0 {
		return Prompt{}, v.Errorf("at least one token id")
	}
	ids, err := tokenIDs(list)
	return Prompt{IDs: ids}, err
}

// tokenIDs reads ids; whether the vocabulary has them is for the caller to see.
func tokenIDs(list []strictjson.Value) ([]int32, error) {
	ids := make([]int32, len(list))
	for i, e := range list {
		id, err := e.Int(0, math.MaxInt32)
		if err != nil {
			return nil, err
		}
		ids[i] = int32(id)
	}
	return ids, nil
}
