package tlsfiles

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/coretest"
)

// TestFollow: a renewed certificate is taken over with the next connection, and a broken one is not.
func TestFollow(t *testing.T) {
	a, dir := coretest.NewAuthority(t), t.TempDir()
	f := a.Issue(t, dir, "one")
	var notes []string
	s, err := Open(Files{f.Cert, f.Key, f.CA}, func(line string) { notes = append(notes, line) })
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.now = func() time.Time { return now }
	name := func() string {
		c, err := s.Server().GetConfigForClient(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Certificates[0].Leaf.Subject.CommonName
	}
	a.Issue(t, dir, "two")
	if got := name(); got != "one" {
		t.Errorf("looked at the files again at once: %s", got)
	}
	now = now.Add(lookEvery)
	if got := name(); got != "two" || len(notes) != 1 || !strings.Contains(notes[0], "renewed") {
		t.Errorf("%s, %q", got, notes)
	}
	if err := os.WriteFile(f.Cert, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lookEvery)
	if got := name(); got != "two" || len(notes) != 2 || !strings.Contains(notes[1], "refused") {
		t.Errorf("%s, %q", got, notes)
	}
	if got := s.Client("x").Certificates[0].Leaf.Subject.CommonName; got != "two" || len(notes) != 2 {
		t.Errorf("%s, %q", got, notes)
	}
}

// TestRefuse: what can't protect anybody is refused with the reason.
func TestRefuse(t *testing.T) {
	a := coretest.NewAuthority(t)
	f, other := a.Issue(t, t.TempDir(), "one"), a.Issue(t, t.TempDir(), "two")
	shared := a.Issue(t, t.TempDir(), "three")
	if err := os.Chmod(shared.Key, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		files Files
		want  string
	}{
		{Files{}, "all three"}, {Files{Cert: f.Cert, Key: f.Key}, "all three"}, {Files{f.Cert, other.Key, f.CA}, "private key does not match"},
		{Files{f.Cert, f.Key, f.Key}, "no certificate in it"}, {Files{f.Cert, f.Key, f.CA + ".no"}, "no such file"}, {Files{shared.Cert, shared.Key, shared.CA}, "others can write it"},
	} {
		if _, err := Open(c.files, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.files, err, c.want)
		}
	}
	late := &Store{files: Files{f.Cert, f.Key, f.CA}, now: func() time.Time { return time.Now().AddDate(1, 0, 0) }}
	if err := late.read(); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an old certificate: %v", err)
	}
}
