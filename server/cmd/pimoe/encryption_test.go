package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEncryptionKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seal.keys")
	environ := []string{"PIMOE_ENCRYPTION__KEY_FILE=" + file}
	run := func(args ...string) result {
		return pimoeIn(t, "", environ, append([]string{"encryption"}, args...)...)
	}
	if r := pimoe(t, "encryption", "list"); r.code != exitUsage || !strings.Contains(r.err, "encryption.key_file") {
		t.Errorf("without a file: %+v", r)
	}
	if r := run("list"); r.code == exitOK || !strings.Contains(r.err, "new-key") {
		t.Errorf("before the file is there: %+v", r)
	}
	first := decode[[]sealKey](t, run("new-key", "-o", "json"))
	if len(first) != 1 || !first[0].Seals {
		t.Fatalf("%+v", first)
	}
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if r := run("new-key"); r.code != exitUsage || !strings.Contains(r.err, "rotate") {
		t.Errorf("a second one: %+v", r)
	}
	both := decode[[]sealKey](t, run("rotate", "-o", "json"))
	if len(both) != 2 || !both[0].Seals || both[1].ID != first[0].ID || both[1].Seals {
		t.Fatalf("%+v", both)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	list := run("list").ok(t).out
	for line := range strings.Lines(string(text)) {
		if id, key, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && !strings.HasPrefix(line, "#") && (strings.Contains(list, key) || !strings.Contains(list, id)) {
			t.Errorf("the list shows a key or lacks an id: %s", list)
		}
	}
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"the one that seals": {[]string{"forget", both[0].ID}, exitUsage},
		"unknown":            {[]string{"forget", "unknown"}, exitNotFound},
	} {
		if r := run(c.args...); r.code != c.code || r.out != "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if left := decode[[]sealKey](t, run("forget", first[0].ID, "-o", "json")); len(left) != 1 || left[0].ID != both[0].ID {
		t.Errorf("%+v", left)
	}
	line := strings.TrimSpace(run("new-key", "--print").ok(t).out)
	if err := os.WriteFile(file, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if printed := decode[[]sealKey](t, run("list", "-o", "json")); len(printed) != 1 || !strings.HasPrefix(line, printed[0].ID+":") {
		t.Errorf("%+v of %q", printed, line)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := run("list"); r.code != exitUsage || !strings.Contains(r.err, "chmod 600") {
		t.Errorf("a file that others can read: %+v", r)
	}
}
