package bundle_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/server/bundle"
)

func hide(s string) string { return strings.ReplaceAll(s, "canary", "[secret]") }

// What goes in comes out, without secrets.
func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	in := []bundle.File{{Name: "a.txt", Data: []byte("x canary y")}, {Name: "b.json", Data: nil}}
	if err := bundle.Write(&b, "folder", in, hide, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	out, err := bundle.Read(b.Bytes())
	want := []bundle.File{{Name: "a.txt", Data: []byte("x [secret] y")}, {Name: "b.json", Data: []byte{}}}
	if diff := cmp.Diff(want, out); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if err := bundle.Write(&bytes.Buffer{}, "folder", []bundle.File{{Name: "../x"}}, hide, time.Unix(1, 0)); err == nil {
		t.Error("a file beside the folder")
	}
	for _, broken := range [][]byte{nil, []byte("no gzip"), b.Bytes()[:b.Len()/2]} {
		if _, err := bundle.Read(broken); err == nil {
			t.Errorf("%q is read", broken)
		}
	}
	var many bytes.Buffer
	if err := bundle.Write(&many, "folder", make1000(), hide, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Read(many.Bytes()); err == nil {
		t.Error("a thousand files are read")
	}
}

func make1000() (out []bundle.File) {
	for range 1000 {
		out = append(out, bundle.File{Name: "x"})
	}
	return out
}

// The facts about the machine name variables and hold no value of one.
func TestHost(t *testing.T) {
	t.Setenv("PIMOE_API_KEY", "canary-value")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "canary-value")
	text := string(bundle.Host())
	if !strings.Contains(text, "PIMOE_API_KEY") || strings.Contains(text, "canary-value") || strings.Contains(text, "AWS_") {
		t.Errorf("%s", text)
	}
}
