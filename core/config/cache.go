package config

import "time"

// Cache keeps answers that would be the same if they were computed again.
type Cache struct {
	Answers  string        `koanf:"answers"`   // "on" (default) or "off"
	MemoryMB int           `koanf:"memory_mb"` // of answers in this host; default 32
	TTL      time.Duration `koanf:"ttl"`       // how long an answer is kept; default 10 min
	Shared   string        `koanf:"shared"`    // "off" (default), or "redis": hosts share answers through Redis, sealed
}

func defaultCache() Cache {
	return Cache{Answers: "on", MemoryMB: 32, TTL: 10 * time.Minute, Shared: "off"}
}

func (v *validator) cache(c Config) {
	if c.Cache.Shared != "redis" {
		return
	}
	if c.Redis.URL == "" {
		v.bad("cache.shared", "redis", "redis.url with it")
	}
	if c.Encryption.KeyFile == "" {
		v.bad("cache.shared", "redis", "encryption.key_file with it: whoever can write to Redis could put answers there that nobody can tell from ours")
	}
}
