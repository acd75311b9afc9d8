package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeys(t *testing.T) {
	environ := []string{"PIMOE_AUTH__KEYS_FILE=" + filepath.Join(t.TempDir(), "keys.json")}
	run := func(args ...string) result { return pimoeIn(t, "", environ, append([]string{"keys"}, args...)...) }
	if list := decode[[]shownKey](t, run("list", "-o", "json")); len(list) != 0 {
		t.Errorf("before the first: %v", list)
	}
	created := run("create", "--name", "ci", "--tenant", "acme", "--role", "operator", "--scopes", "experts,stats", "--expires", "1h")
	key := strings.TrimSpace(created.out)
	if created.code != exitOK || !strings.HasPrefix(key, "pimoe_") || strings.Contains(created.err, key) {
		t.Fatalf("%+v", created)
	}
	id := strings.Split(key, "_")[1]
	rotated := decode[shownKey](t, run("rotate", id, "--overlap", "1m", "-o", "json"))
	if rotated.Key == "" || rotated.ID == id || rotated.Role != "operator" || rotated.Tenant != "acme" || len(rotated.Scopes) != 2 {
		t.Errorf("%+v", rotated)
	}
	if r := decode[[]shownKey](t, run("revoke", rotated.ID, "-o", "json")); r[0].State != "revoked" {
		t.Errorf("%+v", r)
	}
	list := decode[[]shownKey](t, run("list", "-o", "json"))
	if len(list) != 2 || list[0].State != "active" || list[0].RotatedTo != rotated.ID || list[1].State != "revoked" || list[0].Key != "" {
		t.Errorf("%+v", list)
	}
	if out := run("list").ok(t).out; strings.Contains(out, key) || !strings.Contains(out, id) || !strings.Contains(out, "revoked") {
		t.Errorf("%s", out)
	}
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"role":    {[]string{"create", "--role", "root"}, exitUsage},
		"scope":   {[]string{"create", "--scopes", "everything"}, exitUsage},
		"tenant":  {[]string{"create", "--tenant", "a b"}, exitUsage},
		"past":    {[]string{"create", "--expires", "-1h"}, exitUsage},
		"overlap": {[]string{"rotate", id, "--overlap", "-1h"}, exitUsage},
		"twice":   {[]string{"rotate", id}, exitUsage},
		"unknown": {[]string{"revoke", "aaaaaaaa"}, exitNotFound},
	} {
		if r := run(c.args...); r.code != c.code || r.out != "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	file := strings.TrimPrefix(environ[0], "PIMOE_AUTH__KEYS_FILE=")
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	if r := run("list"); r.code != exitUsage || !strings.Contains(r.err, "chmod 600") {
		t.Errorf("a file that others can write: %+v", r)
	}
}
