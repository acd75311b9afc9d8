package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/pprof"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/bundle"
	"github.com/pimoe/pimoe/server/logging/mask"
	"github.com/pimoe/pimoe/server/profiling"
)

// This file is the part of the admin API that is for those who look for a fault: kept profiles and the bundle.

const (
	keptPath    = "/admin/profiles"
	profilePath = keptPath + "/:profile"
	bundlePath  = "/admin/debug/bundle"
)

// RecentLog is what the host's log has last said; it goes into the debug bundle.
func RecentLog(last func() []byte) Option { return func(o *options) { o.recent = last } }

// debugRoutes are on the admin listener alone.
func (s *Server) debugRoutes() []route {
	return []route{
		{method: http.MethodGet, path: keptPath, handle: s.keptProfiles},
		{method: http.MethodGet, path: profilePath, handle: s.keptProfile},
		{method: http.MethodGet, path: bundlePath, handle: s.bundle},
	}
}

// openProfiles starts the recorder that the configuration asks for.
func (s *Server) openProfiles() (err error) {
	s.kept, err = profiling.Open(s.cfg.Home, s.cfg.Profiling, s.service.metrics, s.log)
	return err
}

// keptProfiles is GET /admin/profiles: the profiles that are kept, the newest first.
func (s *Server) keptProfiles(context.Context, *request) (*reply, error) {
	list, err := s.kept.List()
	if err != nil {
		return nil, err
	}
	return jsonReply(map[string]any{"profiles": list}), nil
}

// keptProfile is GET /admin/profiles/{profile}: one of them, for go tool pprof.
func (s *Server) keptProfile(_ context.Context, r *request) (*reply, error) {
	b, err := s.kept.Read(r.profile)
	if errors.Is(err, sdk.ErrNotFound) {
		return nil, &fault{status: http.StatusNotFound, code: "not_found", message: "there is no such profile"}
	}
	if err != nil {
		return nil, err
	}
	return &reply{status: http.StatusOK, contentType: mimeBytes, body: b}, nil
}

// about is what a bundle says of itself.
const about = `What a bug report on PiMoE needs, without secrets: keys, tokens, passwords, prompts and answers are not in it.

version.json     what runs, since when, and the model
config.yaml      the configuration in force, without secrets
stats.json       GET /api/v1/stats
experts.json     GET /admin/experts
metrics.txt      GET /metrics
log.txt          the last lines of the host's log, masked as they were written
goroutines.txt   what every goroutine of the host was doing
host.txt         the machine and the limits of the process; of the environment, names alone
doctor.json      pimoe doctor, where the bundle was asked for

Read it before you send it: names of models, groups, tenants and folders are in it.
`

// bundle is GET /admin/debug/bundle: all of that as a tar.gz.
func (s *Server) bundle(ctx context.Context, r *request) (*reply, error) {
	now := s.now.Load()
	text, err := now.YAML()
	if err != nil {
		return nil, fmt.Errorf("print the configuration: %w", err)
	}
	files := []bundle.File{{Name: "README.txt", Data: []byte(about)}, {Name: "config.yaml", Data: text}, {Name: "host.txt", Data: bundle.Host()}}
	files = append(files, bundle.File{Name: "version.json", Data: mustJSON(map[string]any{
		"version": s.build.Version, "revision": s.build.Revision, "started": s.started.UTC().Format(time.RFC3339), "uptime": time.Since(s.started).Seconds(),
		"model": s.service.id, "digest": s.service.digest, "config": now.Hash(),
	})})
	for name, h := range map[string]handler{"stats.json": s.stats, "experts.json": s.experts, "metrics.txt": s.metrics} {
		rep, err := h(ctx, &request{principal: r.principal})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files = append(files, bundle.File{Name: name, Data: rep.body})
	}
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 2); err != nil {
		return nil, fmt.Errorf("goroutines: %w", err)
	}
	files = append(files, bundle.File{Name: "goroutines.txt", Data: stacks.Bytes()})
	if s.recent != nil {
		files = append(files, bundle.File{Name: "log.txt", Data: s.recent()})
	}
	var b bytes.Buffer
	if err := bundle.Write(&b, "pimoe-debug", files, mask.New(nil, now.Secrets()...).Text, time.Now()); err != nil {
		return nil, err
	}
	return &reply{status: http.StatusOK, contentType: "application/gzip", header: map[string]string{"Content-Disposition": `attachment; filename="pimoe-debug.tar.gz"`}, body: b.Bytes()}, nil
}
