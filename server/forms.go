package server

import (
	"container/list"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/pimoe/pimoe/core/grammar"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/openai"
)

// forms compiles the forms that clients ask for and keeps the last ones: the same schema comes with every request of an
// application.
type forms struct {
	vocabulary func() (*grammar.Vocabulary, error)

	mu    sync.Mutex // guards all below
	byKey map[string]*list.Element
	order list.List // of *keptForm, the last used first
}

type keptForm struct {
	key      string
	once     sync.Once
	compiled *grammar.Grammar
	err      error
}

// keptForms is how many compiled forms are kept. One is some hundred kilobytes, a few megabytes at most.
const keptForms = 64

// get is the grammar of a key, which make describes.
func (f *forms) get(key string, make grammar.Form) (*grammar.Grammar, error) {
	e := f.entry(key)
	e.once.Do(func() {
		e.err = errors.New("compiling has failed") // unless it returns
		v, err := f.vocabulary()
		if err == nil {
			e.compiled, err = grammar.Compile(make, v)
		}
		e.err = err
	})
	return e.compiled, e.err
}

func (f *forms) entry(key string) *keptForm {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byKey == nil {
		f.byKey = map[string]*list.Element{}
	}
	if e, ok := f.byKey[key]; ok {
		f.order.MoveToFront(e)
		return e.Value.(*keptForm)
	}
	e := &keptForm{key: key}
	f.byKey[key] = f.order.PushFront(e)
	if f.order.Len() > keptForms {
		last := f.order.Back()
		delete(f.byKey, last.Value.(*keptForm).key)
		f.order.Remove(last)
	}
	return e
}

// drop forgets all; those that are being compiled are not kept.
func (f *forms) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byKey = nil
	f.order.Init()
}

// formOf is the form of a response_format, and the key it is kept under.
func formOf(f *openai.Format) (string, grammar.Form) {
	key := string(f.Kind) + "\x00" + f.Text + string(f.Schema)
	switch f.Kind {
	case openai.Regex:
		return key, grammar.Regex(f.Text)
	case openai.Grammar:
		return key, grammar.GBNF(f.Text)
	case openai.JSONSchema:
		if f.Schema != nil {
			return key, grammar.JSON(f.Schema)
		}
	}
	return string(openai.JSONObject), grammar.JSON([]byte(`{"type":"object"}`))
}

// compile finds the grammar of a request, and how the model writes calls of tools if it may call some; nil if its answer
// has no form, or if there are no tools.
func (s *Server) compile(want *openai.Request) (*grammar.Grammar, *family, error) {
	var key string
	var form grammar.Form
	param := ""
	if want.Format != nil {
		key, form = formOf(want.Format)
		param = want.Format.Path
	}
	choice := want.ToolChoice
	if len(want.Tools) == 0 || choice.Mode == openai.ToolsNone {
		if key == "" {
			return nil, nil, nil
		}
		g, err := s.forms.get(key, form)
		return g, nil, formError(param, err)
	}
	f, err := s.service.family()
	if err != nil {
		return nil, nil, err
	}
	if choice.Mode == openai.ToolsAuto && key == "" {
		return nil, &f, nil
	}
	calls := f.form(want.Tools, choice.Name, want.OneCall)
	if choice.Mode == openai.ToolsAuto { // a call, or the answer in its format
		form, param = grammar.Choice(form, calls), "response_format or tools"
	} else {
		form, param = calls, "tools"
	}
	key = strings.Join([]string{"tools", f.name, string(choice.Mode), choice.Name, fmt.Sprint(want.OneCall), string(want.ToolsJSON), key}, "\x00")
	g, err := s.forms.get(key, form)
	return g, &f, formError(param, err)
}

// formError tells the client's mistakes in a form from ours.
func formError(param string, err error) error {
	code := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sdk.ErrUnsupported):
		code = "unsupported_value"
	case errors.Is(err, sdk.ErrInvalid):
		code = "invalid_value"
	default:
		return fmt.Errorf("compile %s: %w", param, err)
	}
	return &fault{status: http.StatusUnprocessableEntity, code: code, param: param, message: param + ": " + plain(err), expected: "a form that can be compiled", got: "another"}
}

// checkRoom refuses a form whose shortest answer may need more tokens than the request allows.
func (s *Server) checkRoom(g *grammar.Grammar, want *openai.Request, prompt int) error {
	if g == nil {
		return nil
	}
	room, param := s.service.context-prompt, "messages"
	if want.Messages == nil {
		param = "prompt"
	}
	if most := s.maxTokens(want); most > 0 && most < room {
		room, param = most, "max_tokens"
	}
	if g.Least() <= room {
		return nil
	}
	return &fault{
		status: http.StatusUnprocessableEntity, code: "form_too_long", param: param,
		message:  fmt.Sprintf("the shortest answer of the form that is asked for may need %d tokens, and there is room for %d", g.Least(), room),
		expected: fmt.Sprintf("room for at least %d tokens", g.Least()), got: fmt.Sprint(room),
	}
}
