package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/server"
	"github.com/pimoe/pimoe/server/audit"
	"github.com/pimoe/pimoe/server/instance"
)

// trail is the audit log of a server; without a log it does nothing.
type trail struct {
	log   *audit.Log
	out   *slog.Logger
	model string // once it is served
}

func (a *app) openTrail(cfg config.Config) *trail {
	path := cfg.Audit.Path(cfg.Home)
	if path == "" {
		return &trail{}
	}
	out := a.logger(cfg)
	return &trail{log: audit.Open(path, audit.Options{Log: out}), out: out}
}

func (t *trail) options() []server.Option {
	if t.log == nil {
		return nil
	}
	return []server.Option{server.Audit(t.log)}
}

// event records what the host has done by itself.
func (t *trail) event(e host.Event) {
	if t.log == nil {
		return
	}
	r := audit.Record{Actor: audit.Host, Action: e.What, Object: e.Object, Outcome: audit.Noticed, Details: map[string]any{"why": oneLine(e.Why)}}
	if !e.Since.IsZero() {
		r.Details["last_good"], r.Details["calls_since"] = e.Since.UTC().Format(time.RFC3339Nano), e.Calls
	}
	t.log.Note(r)
}

// started records what is served, and with which settings.
func (t *trail) started(cfg config.Config, inst *instance.Instance) {
	if t.log == nil {
		return
	}
	t.model = inst.ID
	t.log.Finish(audit.Record{Actor: audit.Host, Action: "host.start", Object: inst.ID, Outcome: audit.Done, Details: map[string]any{
		"version": version, "config": configDigest(cfg), "model": inst.Digest, "pid": os.Getpid(), "policy": cfg.Policy,
	}})
	t.tellHead("audit log")
}

// tellHead writes the head to the host's log, where whoever changes the audit log does not reach it.
func (t *trail) tellHead(text string) {
	seq, hash := t.log.Head()
	t.out.Info(text, "head", fmt.Sprintf("%d:%s", seq, hash))
}

// close records the end of the host, and why.
func (t *trail) close(cause error) {
	if t.log == nil {
		return
	}
	r := audit.Record{Actor: audit.Host, Action: "host.stop", Object: t.model, Outcome: audit.Done, Details: map[string]any{"pid": os.Getpid()}}
	if cause != nil {
		r.Outcome, r.Details["why"] = audit.Failed, oneLine(cause.Error())
	}
	t.log.Finish(r)
	t.tellHead("audit log ends")
	if err := t.log.Close(); err != nil {
		t.out.Error("the audit log is not complete", "err", err)
	}
}

// configDigest names the settings without telling them: the SHA-256 of what pimoe config print shows, which has no secrets.
func configDigest(cfg config.Config) string {
	text, err := cfg.YAML()
	if err != nil {
		return "unknown: " + err.Error()
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}
