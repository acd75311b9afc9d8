package ws

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/server/strictjson"
)

func TestParse(t *testing.T) {
	for frame, want := range map[string]string{
		`{"type":"ping"}`: "", `{"type":"pong"}`: "",
		`{"type":"generate","id":"a","data":{"x":1},"timeout":"2s","accept":"exact","resumable":false}`: "",
		`{"type":"cancel","request_id":"a/b:c.d-e_f"}`:                                                  "",
		`{"type":"ping","data":null}`:                                                                   "",
		``:                                                                                              "a JSON document", `[]`: "an object", `{"id":"a"}`: "type", `{"type":"dance","id":"a"}`: "type",
		`{"type":"generate"}`: "id", `{"type":"generate","id":""}`: "id", `{"type":"generate","id":"a b"}`: "id", `{"type":"generate","id":7}`: "id",
		`{"type":"ping","id":"a","request_id":"a"}`: "request_id", `{"type":"ping","more":1}`: "more", `{"type":"ping","type":"pong"}`: "type",
		`{"type":"ping","timeout":5}`: "timeout", `{"type":"ping","resumable":"no"}`: "resumable",
		`{"type":"generate","id":"` + strings.Repeat("x", 129) + `"}`: "id",
	} {
		m, err := Parse(false, []byte(frame))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", frame, err, want)
		}
		if bad := (*strictjson.Error)(nil); err != nil && !errors.As(err, &bad) {
			t.Errorf("%s: a %T", frame, err)
		}
		if err == nil && strings.Contains(frame, `"resumable":false`) == m.Resumable {
			t.Errorf("%s: resumable is %v", frame, m.Resumable)
		}
	}
	if m, err := Parse(false, []byte(`{"type":"dance","id":"a"}`)); err == nil || m.ID.Value != "a" {
		t.Errorf("a refused message has no id: %+v", m)
	}
}

func TestBinaryFrames(t *testing.T) {
	head := []byte(`{"type":"process","id":"a"}`)
	m, err := Parse(true, Join(head, []byte{1, 2, 3}))
	if err != nil || m.Type != Process || !bytes.Equal(m.Bytes, []byte{1, 2, 3}) {
		t.Errorf("%+v %v", m, err)
	}
	if m, err = Parse(true, Join(head, nil)); err != nil || m.Bytes == nil {
		t.Errorf("no bytes behind it: %+v %v", m, err)
	}
	for _, bad := range [][]byte{nil, {1}, {9, 0, 0, 0, '{', '}'}, {0xff, 0xff, 0xff, 0xff}, Join([]byte(`{"type":"ping"}`), nil)} {
		if _, err := Parse(true, bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestData(t *testing.T) {
	parse := func(frame string) Message {
		m, err := Parse(false, []byte(frame))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if token, err := parse(`{"type":"auth","data":{"token":"k"}}`).Token(); token != "k" || err != nil {
		t.Errorf("%q %v", token, err)
	}
	topic, payload, err := parse(`{"type":"publish","id":"a","data":{"topic":"news","payload":[1]}}`).Topic()
	if topic != "news" || string(payload) != "[1]" || err != nil {
		t.Errorf("%q %s %v", topic, payload, err)
	}
	r, err := parse(`{"type":"resume","id":"a","data":{"generation":"g","last_event":3,"request":{"a":1},"model_digest":"d"}}`).Resumption()
	if err != nil || r.Generation != "g" || r.LastEvent != 3 || string(r.Request) != `{"a":1}` || r.Digest != "d" {
		t.Errorf("%+v %v", r, err)
	}
	for _, bad := range []string{`{"type":"auth"}`, `{"type":"auth","data":{}}`, `{"type":"auth","data":{"token":""}}`, `{"type":"auth","data":{"token":"a","more":1}}`, `{"type":"auth","data":[]}`} {
		if _, err := parse(bad).Token(); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	for _, bad := range []string{
		`{"type":"subscribe","id":"a","data":{"topic":"A"}}`, `{"type":"subscribe","id":"a","data":{"topic":".a"}}`, `{"type":"subscribe","id":"a","data":{}}`,
		`{"type":"subscribe","id":"a","data":{"topic":"a","payload":1}}`, `{"type":"publish","id":"a","data":{"topic":"a"}}`,
		`{"type":"subscribe","id":"a","data":{"topic":"` + strings.Repeat("x", 65) + `"}}`,
	} {
		if _, _, err := parse(bad).Topic(); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	for _, bad := range []string{`{"generation":""}`, `{"generation":"g","last_event":-1}`, `{"generation":"g","request":1}`, `{"last_event":1}`} {
		if _, err := parse(`{"type":"resume","id":"a","data":` + bad + `}`).Resumption(); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// Whatever a client sends is a message that makes sense, or an error that says what is wrong with it.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"type":"generate","id":"a","data":{"prompt":"x"}}`, `{"type":"auth","data":{"token":"k"}}`, `{"type":"resume","id":"a","data":{"generation":"g","last_event":1}}`,
		`{"type":"publish","request_id":"b","data":{"topic":"t","payload":{}}}`, "{", "",
	} {
		f.Add(false, []byte(seed))
		f.Add(true, Join([]byte(seed), []byte("xyz")))
	}
	f.Fuzz(func(t *testing.T, binary bool, frame []byte) {
		m, err := Parse(binary, frame)
		if err != nil {
			if bad := (*strictjson.Error)(nil); !errors.As(err, &bad) {
				t.Fatalf("a %T", err)
			}
			return
		}
		known := false
		for _, k := range Types {
			known = known || k == m.Type
		}
		if !known || m.ID.Value != "" && !harmless.MatchString(m.ID.Value) || binary && m.Type != Process {
			t.Fatalf("%+v", m)
		}
		m.Token()
		m.Resumption()
		if topic, payload, err := m.Topic(); err == nil && (!topicName.MatchString(topic) || m.Type == Publish && !json.Valid(payload)) {
			t.Fatalf("topic %q %q", topic, payload)
		}
		answer := Append(nil, "error", m.ID, 1, []byte("{}"))
		if !json.Valid(answer) {
			t.Fatalf("the answer %s is no JSON", answer)
		}
	})
}
