package server

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The conversations of docs/websocket.md are as they are there, each on a connection of its own.
func TestDocumentedConversations(t *testing.T) {
	b, err := os.ReadFile("../docs/websocket.md")
	if err != nil {
		t.Fatal(err)
	}
	r := serve(t, nil, nil)
	blocks := regexp.MustCompile("(?s)```ws\n(.*?)```").FindAllStringSubmatch(string(b), -1)
	if len(blocks) < 6 {
		t.Fatalf("only %d conversations", len(blocks))
	}
	for i, block := range blocks {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) { converse(t, r.in(t), strings.TrimSpace(block[1])) })
	}
}

// converse plays the client's lines and compares the server's. A value "$NAME" is kept for later lines.
func converse(t *testing.T, r *running, script string) {
	c, _, err := shake(r)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, kept := &peer{t, c}, map[string]string{}
	if !strings.HasPrefix(script, `< {"type":"ready"`) {
		p.next()
	}
	for line := range strings.SplitSeq(script, "\n") {
		for name, value := range kept {
			line = strings.ReplaceAll(line, name, value)
		}
		if said, ok := strings.CutPrefix(line, "> "); ok {
			p.say("%s", said)
			continue
		}
		m := p.next()
		var want, have any
		if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "< ")), &want); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if err := json.Unmarshal([]byte(m.raw), &have); err != nil {
			t.Fatal(err)
		}
		if where := differ(want, have, kept); where != "" {
			t.Fatalf("%s\nin fact: %s\n%s", line, m.raw, where)
		}
	}
}

// differ says where a value lacks something of what is documented; empty = nowhere.
func differ(want, have any, kept map[string]string) string {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			return fmt.Sprintf("%v is no object", have)
		}
		for k, v := range w {
			if _, ok := h[k]; !ok {
				return "no " + k
			}
			if where := differ(v, h[k], kept); where != "" {
				return k + ": " + where
			}
		}
		return ""
	case []any:
		h, ok := have.([]any)
		if !ok || len(h) < len(w) {
			return fmt.Sprintf("%v is no such list", have)
		}
		for i := range w {
			if where := differ(w[i], h[i], kept); where != "" {
				return fmt.Sprint(i, ": ", where)
			}
		}
		return ""
	case string:
		if w == "..." {
			return ""
		}
		if h, ok := have.(string); ok && strings.HasPrefix(w, "$") {
			kept[w] = h
			return ""
		}
	}
	if want != have {
		return fmt.Sprintf("%v, documented is %v", have, want)
	}
	return ""
}
