package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/access"
)

// stats is GET /api/v1/stats: the state of the host as one tree, for people and scripts.
func (s *Server) stats(_ context.Context, r *request) (*reply, error) {
	now := s.now.Load()
	settings, err := s.print(now)
	if err != nil {
		return nil, err
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	e := s.service.engine.Stats()
	ready := map[string]any{"ready": true, "reason": nil}
	if err := s.unready(); err != nil {
		ready = map[string]any{"ready": false, "reason": s.reason(err)}
	}
	return &reply{status: http.StatusOK, contentType: mimeJSON, body: mustJSON(map[string]any{
		"system": map[string]any{
			"version": s.build.Version, "revision": s.build.Revision, "go_version": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
			"cpus": runtime.NumCPU(), "goroutines": runtime.NumGoroutine(), "heap_bytes": mem.HeapAlloc, "memory_bytes": mem.Sys,
			"started": s.started.UTC().Format(time.RFC3339), "uptime": time.Since(s.started).Seconds(),
			"model": map[string]any{
				"id": s.service.id, "digest": s.service.digest, "numeric_class": s.service.class(),
				"hidden_size": s.service.hidden, "vocabulary": s.service.vocab, "context": s.service.context, "expert_layers": s.service.layers,
			},
		},
		"monitoring": map[string]any{
			"health": ready, "draining": s.drain.Load(), "http_requests_in_flight": s.running.count(),
			"steps": e.Steps, "prompt_tokens": e.PromptTokens, "cached_tokens": e.CachedTokens, "completion_tokens": e.CompletionTokens,
		},
		"queue": map[string]any{
			"running": e.Running, "queued": e.Queued, "max_running": now.Limits.MaxConcurrentRequests, "max_queued": now.Limits.MaxQueuedRequests,
			"pages": e.Pages, "free_pages": e.FreePages, "cached_pages": e.CachedPages, "preemptions": e.Preemptions,
		},
		"state":             s.stateStats(r.principal.Tenant, r.principal.Role >= access.Operator),
		"tenants":           s.tenants.visible(r.principal),
		"cache":             s.cacheStats(),
		"experts":           map[string]any{"processes": s.service.experts(), "router": s.service.router()},
		"production_config": settings,
	})}, nil
}

// printed is a configuration, which nobody changes any more, as JSON.
type printed struct {
	of   *config.Config
	json json.RawMessage
}

// print is printed for a configuration: to print one takes a millisecond, and it rarely changes.
func (s *Server) print(cfg *config.Config) (json.RawMessage, error) {
	if last := s.printed.Load(); last != nil && last.of == cfg {
		return last.json, nil
	}
	all, err := settings(cfg)
	if err != nil {
		return nil, err
	}
	text := mustJSON(all)
	s.printed.Store(&printed{cfg, text})
	return text, nil
}

// settings is a configuration, its secrets masked.
func settings(cfg *config.Config) (map[string]any, error) {
	text, err := cfg.YAML() // leaves out every secret
	if err != nil {
		return nil, fmt.Errorf("print the configuration: %w", err)
	}
	var out map[string]any
	if err := yaml.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("read the printed configuration: %w", err)
	}
	out["api_key"] = masked(cfg.APIKey)
	if redis, ok := out["redis"].(map[string]any); ok {
		redis["password"] = masked(cfg.Redis.Password)
	}
	if auth, ok := out["auth"].(map[string]any); ok {
		if oidc, ok := auth["oidc"].(map[string]any); ok {
			oidc["client_secret"] = masked(cfg.Auth.OIDC.ClientSecret)
		}
	}
	return out, nil
}

// masked says only whether a secret is set.
func masked(secret string) any {
	if secret == "" {
		return nil
	}
	return "***"
}
