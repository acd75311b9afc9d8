package catalogue

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/sdk"
)

func digest(c string) string { return strings.Repeat(c, 64) }

func entry(lines ...string) string {
	return "plugins:\n  - " + strings.Join(append([]string{"name: cpu", "kind: expert", "version: v1", "sha256: " + digest("a")}, lines...), "\n    ") + "\n"
}

func TestRoundTrip(t *testing.T) {
	c := &Catalogue{}
	c.Pin(Plugin{Name: "model", Kind: "router", Version: "v2", SHA256: digest("b")})
	c.Pin(Plugin{Name: "cpu", Kind: "expert", Version: "v2", SHA256: digest("c"), Groups: []string{"e0", "e1"}})
	c.Pin(Plugin{Name: "mine", Kind: "expert", SHA256: digest("d"), Path: "/opt/mine", Profile: &Profile{
		Name: "python", Interpreter: Digest{"/usr/bin/python3.11", digest("a")}, Reads: []Digest{{"/opt/lib", digest("b")}},
	}})
	c.Pin(Plugin{Name: "cpu", Kind: "expert", Version: "v3", SHA256: digest("e")}) // keeps its groups
	b, err := c.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if d := cmp.Diff(c, got); d != "" {
		t.Error(d)
	}
	if p := got.Profile("/p", "/opt/mine"); p == nil || p.Reads[0].Path != "/opt/lib" || got.Profile("/p", "/p/pimoe-expert-cpu") != nil {
		t.Errorf("profile %+v", p)
	}
	if len(got.Plugins) != 3 || !cmp.Equal(got.Plugins[1].Groups, []string{"e0", "e1"}) || got.Plugins[1].Version != "v3" {
		t.Errorf("%+v", got.Plugins)
	}
}

func TestCheck(t *testing.T) {
	c, err := Read(strings.NewReader(entry("groups: [e0]") + `  - {name: cpu, kind: expert, version: v2, sha256: ` + digest("b") + `}
  - {name: model, kind: router, version: "", sha256: ` + digest("c") + `}
  - {name: far, kind: expert, version: "", sha256: ` + digest("d") + `, path: /opt/far}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ group, path, digest, want string }{
		{"e0", "/p/pimoe-expert-cpu", digest("a"), ""},
		{"e1", "/p/pimoe-expert-cpu", digest("a"), "other expert groups than e1"},
		{"e1", "/p/pimoe-expert-cpu", digest("b"), ""},
		{"e1", "/p/./pimoe-expert-cpu", digest("b"), ""},
		{"e0", "/p/pimoe-expert-cpu", digest("c"), "not the file that the catalogue pins"},
		{"e0", "/q/pimoe-expert-cpu", digest("a"), "not in the catalogue"},
		{"e0", "/p/pimoe-router-model", digest("c"), "not in the catalogue as a plugin of kind expert"},
		{Router, "/p/pimoe-router-model", digest("c"), ""},
		{Router, "/p/pimoe-expert-cpu", digest("a"), "not in the catalogue as a plugin of kind router"},
		{"e5", "/opt/far", digest("d"), ""},
		{"e5", "/p/pimoe-expert-far", digest("d"), "not in the catalogue"},
	} {
		err := c.Check("/p", tt.group, tt.path, "sha256:"+tt.digest)
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, sdk.ErrUnsupported)):
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		entry("colour: red"):            "colour",
		entry("name: ref"):              "already defined",
		"plugins: 7":                    "",
		"plugins: [7]":                  "",
		"- a":                           "",
		"plugins: []\n---\nplugins: []": "more than one",
		"plugins: &a []":                "anchors",
		"\tx":                           "",
		entry("path: rel/ative"):        "full path",
		entry("path: /a/../b"):          "full path",
		entry("groups: [\"a b\"]"):      "group",
		entry("profile: {name: perl}"):  "there are python and cuda",
		entry("profile: {name: cuda, interpreter: {path: /p, sha256: " + digest("b") + "}}"):                                                                                "programs, which have none",
		entry("profile: {name: cuda, reads: [{path: /lib, sha256: x}]}"):                                                                                                    "64 hexadecimal",
		entry("profile: {name: python, interpreter: {path: python3, sha256: " + digest("b") + "}}"):                                                                         "full path",
		entry("profile: {name: python, interpreter: {path: /usr/bin/python3, sha256: x}}"):                                                                                  "64 hexadecimal",
		entry("profile: {name: python, interpreter: {path: /p, sha256: " + digest("b") + "}, reads: [{path: /, sha256: " + digest("b") + "}]}"):                             "full path",
		entry() + "  - {name: cpu, kind: expert, version: v, sha256: " + digest("b") + ", profile: {name: python, interpreter: {path: /p, sha256: " + digest("b") + "}}}\n": "another profile",
		strings.Replace(entry(), "aaaa", "AAAA", 1):                                                                                                                         "64 hexadecimal",
		strings.Replace(entry(), "aaaa", "", 1):                                                                                                                             "64 hexadecimal",
		strings.Replace(entry(), "expert", "x", 1):                                                                                                                          "router or expert",
		strings.Replace(entry(), "cpu", "../cpu", 1):                                                                                                                        "lower-case",
		strings.Replace(entry(), "v1", "\"\\x07\"", 1):                                                                                                                      "plain characters",
		entry() + strings.TrimPrefix(entry(), "plugins:\n"):                                                                                                                 "the same file and digest",
		"plugins:\n" + strings.Repeat("  - {name: a, kind: expert, version: v, sha256: "+digest("a")+"}\n", 1001):                                                           "at most 1000",
		"#" + strings.Repeat("x", 1<<20):                                                                                                                                    "more than",
	} {
		if _, err := Read(strings.NewReader(text)); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.200q: %v, want %q", text, err, want)
		}
	}
	if c, err := Read(strings.NewReader("")); err != nil || len(c.Plugins) != 0 {
		t.Errorf("an empty file: %v %v", c, err)
	}
}

// FuzzRead: what is read is valid and is read again the same.
func FuzzRead(f *testing.F) {
	for _, s := range []string{"", entry(), entry("groups: [e0, e1]"), entry("path: /x"), "plugins: [{}]", "a: &a [*a]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Read(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, sdk.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		out, err := c.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Read(bytes.NewReader(out))
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if fmt.Sprint(c.Plugins) != fmt.Sprint(again.Plugins) {
			t.Fatalf("%v, then %v", c, again)
		}
	})
}
