package openai

import "github.com/pimoe/pimoe/server/strictjson"

// Trace is what a request wants to know of how its answer is computed.
type Trace struct {
	Tokens bool // of each generated token
	Prompt bool // and of each position of the prompt
}

// extension reads {"trace": true, "prompt": true}, the one field of generation requests that is PiMoE's alone.
func extension(r *Request, v strictjson.Value) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Null() {
			continue
		}
		switch m.Name {
		case "trace":
			r.Trace.Tokens, err = m.Bool()
		case "prompt":
			r.Trace.Prompt, err = m.Bool()
		default:
			err = m.Unknown()
		}
		if err != nil {
			return err
		}
	}
	if r.Trace.Prompt && !r.Trace.Tokens {
		return &strictjson.Error{Path: v.Path() + ".prompt", Expected: "trace to be true with it", Got: "trace false"}
	}
	return nil
}

// checkTrace refuses a trace of no token.
func (r *Request) checkTrace() error {
	if r.Trace.Tokens && r.MaxTokens == 0 {
		return &strictjson.Error{Path: "max_tokens", Expected: "at least 1 with pimoe.trace", Got: "0"}
	}
	return nil
}
