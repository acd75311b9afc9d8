package config

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Redis is a server that several hosts share. An empty URL uses none.
type Redis struct {
	URL      string `koanf:"url"`                    // redis://HOST:PORT/DB, or rediss:// for TLS; never with user or password
	Username string `koanf:"username"`               // of Redis' access list; empty = its default user
	Password string `koanf:"password" secret:"true"` // empty = none
	CAFile   string `koanf:"ca_file"`                // PEM file of the authority behind rediss://; empty = the system's
	// Timeout is the most that a request waits for Redis. Default 5 ms.
	Timeout time.Duration `koanf:"timeout"`
	Prefix  string        `koanf:"prefix"` // before every key; default "pimoe:"
}

func defaultRedis() Redis { return Redis{Timeout: 5 * time.Millisecond, Prefix: "pimoe:"} }

// RedisServer is where a Redis URL points.
type RedisServer struct {
	Host string // for TLS
	Addr string // HOST:PORT
	DB   int
	TLS  bool
}

// maxRedisDB is the highest number of a database; servers have 16 unless told otherwise.
const maxRedisDB = 15

// ParseRedisURL reads redis.url. Its errors don't quote it: it may hold a password that does not belong there.
func ParseRedisURL(text string) (RedisServer, error) {
	u, err := url.Parse(text)
	bad := func(why string) (RedisServer, error) { return RedisServer{}, fmt.Errorf("%s: %w", why, sdk.ErrInvalid) }
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "redis" && u.Scheme != "rediss":
		return bad("redis://HOST:PORT/DB, or rediss:// for TLS")
	case u.User != nil:
		return bad("a URL without user and password: set redis.username, and PIMOE_REDIS__PASSWORD or PIMOE_REDIS__PASSWORD_FILE")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return bad("a URL without ? and #: the other keys of redis say the rest")
	}
	s := RedisServer{Host: u.Hostname(), TLS: u.Scheme == "rediss"}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return bad("a port from 1 to 65535")
	}
	s.Addr = net.JoinHostPort(s.Host, port)
	if db := strings.Trim(u.Path, "/"); db != "" {
		if s.DB, err = strconv.Atoi(db); err != nil || s.DB < 0 || s.DB > maxRedisDB {
			return bad(fmt.Sprintf("a database from 0 to %d behind the port", maxRedisDB))
		}
	}
	return s, nil
}

// redisPrefix has no braces and stars: the first choose a cluster's slot, the second are patterns.
var redisPrefix = regexp.MustCompile(`^[A-Za-z0-9_.:-]{0,64}$`)

func (v *validator) redis(r Redis) {
	if !redisPrefix.MatchString(r.Prefix) {
		v.bad("redis.prefix", r.Prefix, "at most 64 letters, digits and _ . : -")
	}
	if r.URL == "" {
		for key, set := range map[string]string{"username": r.Username, "password": r.Password, "ca_file": r.CAFile} {
			if set != "" {
				v.bad("redis."+key, "", "redis.url to be set, too")
			}
		}
		return
	}
	s, err := ParseRedisURL(r.URL)
	if err != nil {
		v.bad("redis.url", "", strings.TrimSuffix(err.Error(), ": "+sdk.ErrInvalid.Error()))
	} else if r.CAFile != "" && !s.TLS {
		v.bad("redis.ca_file", r.CAFile, "a rediss:// URL with it")
	}
	if r.Username != "" && r.Password == "" {
		v.bad("redis.username", r.Username, "a password with it: PIMOE_REDIS__PASSWORD or PIMOE_REDIS__PASSWORD_FILE")
	}
}
