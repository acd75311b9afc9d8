package server

import (
	"fmt"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/redisdb"
)

// openShared connects to what hosts share, for the cache and for limits; nothing where redis.url is empty.
func (s *Server) openShared(cfg config.Config) (err error) {
	if cfg.Redis.URL == "" {
		return nil
	}
	if s.redis, err = redisdb.Open(redisdb.Options{Config: cfg.Redis, Metrics: s.service.metrics, Log: s.log}); err != nil {
		return fmt.Errorf("open redis: %w", err)
	}
	return nil
}

// closeShared ends what openShared has opened, after everything that uses it.
func (s *Server) closeShared() error {
	if s.redis == nil {
		return nil
	}
	return s.redis.Close()
}
