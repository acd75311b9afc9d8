package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/production"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
)

// doctorProduction goes through the checklist and says what it has found; any item that fails is an error.
func (a *app) doctorProduction(c *cobra.Command, cfg config.Config) error {
	results := production.Judge(a.facts(c.Context(), cfg))
	if a.output == "json" {
		if err := table.JSON(a.out, map[string]any{"items": results}); err != nil {
			return err
		}
	} else if err := a.printVerdicts(results); err != nil {
		return err
	}
	if n := production.Failures(results); n > 0 {
		return fmt.Errorf("doctor: %d of %d items fail: %w", n, len(results), sdk.ErrUnavailable)
	}
	return nil
}

func (a *app) printVerdicts(results []production.Result) error {
	rows := make([][]string, len(results))
	for i, r := range results {
		rows[i] = []string{string(r.Status), r.Item, r.Why, r.Fix}
	}
	return table.Write(a.out, []string{"STATUS", "ITEM", "WHY", "WHAT TO DO"}, rows)
}

// facts gathers what the checklist judges.
func (a *app) facts(ctx context.Context, cfg config.Config) production.Facts {
	f := production.Facts{Config: cfg, Needed: neededPlugins(cfg), Root: "/", Now: time.Now()}
	f.Keys, f.KeysErr = access.NewKeyFile(cfg.Auth.KeysPath(cfg.Home), time.Now).List()
	if b, err := os.ReadFile(filepath.Join(cfg.Home, markerFile)); err == nil {
		var m marker
		if json.Unmarshal(b, &m) == nil {
			f.Backup = m.Created
		}
	}
	live, err := a.live(ctx, cfg)
	if err != nil {
		f.NotLive = oneLine(err.Error())
	} else {
		f.Live = live
	}
	return f
}

// live asks the host of the configuration.
func (a *app) live(ctx context.Context, cfg config.Config) (*production.Live, error) {
	if cfg.Server.AdminAddr == "off" {
		return nil, fmt.Errorf("server.admin_addr is off: %w", sdk.ErrUnavailable)
	}
	admin := "http://" + reachable(cfg.Server.AdminAddr)
	body, err := a.get(ctx, admin+"/admin/experts")
	if err != nil {
		return nil, err
	}
	l := &production.Live{}
	if err := json.Unmarshal(body, l); err != nil {
		return nil, fmt.Errorf("answer of the admin API: %w", err)
	}
	if _, err := a.get(ctx, baseURL(cfg)+"/readyz"); err != nil {
		l.Ready = oneLine(err.Error())
	}
	_, err = a.get(ctx, baseURL(cfg)+"/metrics")
	l.Open = err == nil
	_, err = a.get(ctx, admin+"/debug/pprof/")
	l.Profiles = !errors.Is(err, sdk.ErrNotFound)
	l.Audit = a.auditWritable(ctx, admin)
	return l, nil
}

// auditWritable is false only where the host says that it can't write its log.
func (a *app) auditWritable(ctx context.Context, admin string) bool {
	body, err := a.get(ctx, admin+"/metrics")
	return err != nil || !strings.Contains(string(body), "\npimoe_audit_writable 0")
}
