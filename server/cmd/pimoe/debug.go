package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/bundle"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/doctor"
	"github.com/pimoe/pimoe/server/logging/mask"
)

func (a *app) debug() *cobra.Command {
	return group("debug", "Collect what a bug report needs", a.debugBundle())
}

// debugBundle asks a running server for its bundle and adds what this command sees. Without a server it is that alone.
func (a *app) debugBundle() *cobra.Command {
	var admin, out string
	c := &cobra.Command{
		Use: "bundle", Short: "Write a tar.gz with what a bug report needs, without secrets", Args: cobra.NoArgs,
		Long: `Write a tar.gz with what a bug report needs: version, configuration, statistics, expert processes,
metrics, the last lines of the log, goroutines, facts about the machine and what doctor says. Secrets,
prompts and answers are not in it. Without a running server it holds what this command can tell.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			files, note := []bundle.File{}, ""
			base, err := a.adminURL(c, admin)
			if err == nil {
				var b []byte
				if b, err = a.get(c.Context(), base+"/admin/debug/bundle"); err == nil {
					files, err = bundle.Read(b)
				}
			}
			if err != nil {
				if admin != "" {
					return err // who names a server wants its bundle
				}
				note = err.Error()
			}
			own, err := a.ownFiles(cfg.Plugins.Dir, cfg.Home, neededPlugins(cfg), note)
			if err != nil {
				return err
			}
			if note != "" {
				text, err := cfg.YAML()
				if err != nil {
					return err
				}
				own = append(own, bundle.File{Name: "config.yaml", Data: text}, bundle.File{Name: "host.txt", Data: bundle.Host()})
			}
			if err := writeBundle(out, append(files, own...), mask.New(nil, cfg.Secrets()...).Text); err != nil {
				return err
			}
			if note != "" {
				fmt.Fprintln(a.err, "pimoe: note: no server was asked: "+oneLine(note))
			}
			_, err = fmt.Fprintln(a.out, out)
			return err
		},
	}
	c.Flags().StringVar(&admin, "admin", "", "`URL` of the admin API; default: the configured address, if a server is there")
	c.Flags().StringVarP(&out, "output", "o", "pimoe-debug-"+time.Now().UTC().Format("20060102T150405Z")+".tar.gz", "`file` to write")
	return c
}

// ownFiles is what this command sees itself.
func (a *app) ownFiles(plugins, home string, needed []string, note string) ([]bundle.File, error) {
	checks, err := json.MarshalIndent(map[string]any{"checks": doctor.Run(plugins, home, needed)}, "", "  ")
	if err != nil {
		return nil, err
	}
	build, err := json.MarshalIndent(map[string]any{"command": buildInfo(), "server": note}, "", "  ")
	if err != nil {
		return nil, err
	}
	return []bundle.File{{Name: "doctor.json", Data: checks}, {Name: "command.json", Data: build}}, nil
}

// writeBundle makes a file that only its owner can read, and that is not there yet.
func writeBundle(path string, files []bundle.File, clean func(string) string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the bundle: %w", errors.Join(sdk.ErrInvalid, err))
	}
	defer closeInto(&err, f.Close)
	return bundle.Write(f, "pimoe-debug", files, clean, time.Now())
}
