package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/sdk"
)

func TestParseRedisURL(t *testing.T) {
	for text, want := range map[string]RedisServer{
		"redis://cache":                {Host: "cache", Addr: "cache:6379"},
		"redis://10.0.0.1:7000/3":      {Host: "10.0.0.1", Addr: "10.0.0.1:7000", DB: 3},
		"rediss://cache.example:6380/": {Host: "cache.example", Addr: "cache.example:6380", TLS: true},
		"redis://[::1]:6379":           {Host: "::1", Addr: "[::1]:6379"},
	} {
		if got, err := ParseRedisURL(text); err != nil || got != want {
			t.Errorf("%s: %+v %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "cache:6379", "http://cache", "unix:///tmp/redis.sock", "redis://", "redis:///3", "redis://u:hunter2@cache", "redis://:hunter2@cache",
		"redis://cache?password=hunter2", "redis://cache#hunter2", "redis://cache:0", "redis://cache:99999", "redis://cache/x", "redis://cache/16", "redis://cache/-1", "redis://cache/1/2", "redis://a b"} {
		if _, err := ParseRedisURL(text); !errors.Is(err, sdk.ErrInvalid) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestRedisSettings(t *testing.T) {
	for name, c := range map[string]struct{ yaml, want string }{
		"a password in the URL":    {"redis: {url: 'redis://u:hunter2@cache'}", "redis.url: want a URL without user and password: set redis.username, and PIMOE_REDIS__PASSWORD"},
		"a user without password":  {"redis: {url: 'redis://cache', username: a}", "redis.username"},
		"settings without a URL":   {"redis: {ca_file: /x}", "redis.ca_file: want redis.url to be set, too"},
		"an authority without TLS": {"redis: {url: 'redis://cache', ca_file: /x}", "rediss://"},
		"a pattern as prefix":      {"redis: {prefix: 'a*'}", "redis.prefix"},
		"no timeout":               {"redis: {timeout: 0s}", "a duration from 1ms to 1s"},
	} {
		_, _, err := Load(LoadOptions{File: writeFile(t, "c.yaml", c.yaml, 0o600), Environ: []string{}})
		if lines := problemLines(t, err); len(lines) != 1 || !strings.Contains(lines[0], c.want) || strings.Contains(lines[0], "hunter2") {
			t.Errorf("%s: %q", name, lines)
		}
	}
	env := []string{"PIMOE_REDIS__PASSWORD_FILE=" + writeFile(t, "p", "s3cr3t-Vq9xT2mLw8\n", 0o600), "PIMOE_REDIS__URL=rediss://cache/2"}
	if cfg, _, err := Load(LoadOptions{Environ: env}); err != nil || cfg.Redis.Password != "s3cr3t-Vq9xT2mLw8" {
		t.Errorf("%+v %v", cfg.Redis, err)
	}
}
