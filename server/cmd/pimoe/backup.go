package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server"
	"github.com/pimoe/pimoe/server/atomicfile"
	"github.com/pimoe/pimoe/server/backup"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/durable"
)

// markerFile in home says when the last backup was made, for pimoe doctor --production.
const markerFile = "backup.json"

// marker is its content.
type marker struct {
	Created time.Time `json:"created"`
	File    string    `json:"file"`
	Bytes   int64     `json:"bytes"`
}

func (a *app) backup() *cobra.Command {
	return group("backup", "Copy what a home has that can't be made again, check such a copy, and put one into a new home",
		a.backupCreate(), a.backupVerify(), a.backupRestore())
}

func (a *app) backupCreate() *cobra.Command {
	var admin string
	var models, secret bool
	c := &cobra.Command{
		Use: "create FILE", Short: "Write a backup; a server may run meanwhile", Args: cobra.ExactArgs(1),
		Long: `Write a backup: the database of jobs and kept answers, API keys, the audit log and the configuration file. While a
server runs, it gives a copy of its database as of one moment. Models are named, and copied with --with-models; the file
of encryption.key_file is copied with --with-secret only: whoever has both can read what is sealed. The backup is read
again and checked before the command ends, and it is as secret as the home.`,
		Example: `  pimoe backup create /backup/pimoe-$(date +%F).tar.gz`,
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			if admin == "" && cfg.Server.AdminAddr != "off" {
				admin = "http://" + reachable(cfg.Server.AdminAddr)
			}
			src := backup.Source{Paths: a.homePaths(cfg), WithModels: models, WithSecret: secret, Version: version, Now: time.Now()}
			if src.Models, err = storedModels(cfg.Home); err != nil {
				return err
			}
			if path := src.State; path != "" {
				src.Snapshot = a.snapshot(path, admin)
				if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
					src.Snapshot = nil
				}
			}
			m, size, err := createBackup(c.Context(), src, args[0])
			if err != nil {
				return err
			}
			if err := writeMarker(cfg.Home, marker{Created: m.Created, File: args[0], Bytes: size}); err != nil {
				return fmt.Errorf("the backup is whole, but that can't be noted: %w", err)
			}
			return a.printBackup(m, size)
		},
	}
	f := c.Flags()
	f.StringVar(&admin, "admin", "", "`URL` of the admin API of the server that has the database; default: the configured address")
	f.BoolVar(&models, "with-models", false, "also the weights of all models")
	f.BoolVar(&secret, "with-secret", false, "also the keys that seal records")
	return c
}

// homePaths are the parts of a home as the configuration places them.
func (a *app) homePaths(cfg config.Config) backup.Paths {
	p := backup.Paths{Home: cfg.Home, State: cfg.State.Path(cfg.Home), Keys: cfg.Auth.KeysPath(cfg.Home), Audit: cfg.Audit.Path(cfg.Home), Secret: cfg.Encryption.KeyFile}
	p.Config = config.FileOf(a.file, a.environ)
	return p
}

func storedModels(home string) ([]backup.Model, error) {
	out := []backup.Model{}
	if _, err := os.Stat(filepath.Join(home, "models")); err != nil {
		return out, nil // no store: no models
	}
	store, err := weights.OpenStore(home)
	if err != nil {
		return nil, err
	}
	list, err := store.List()
	if err != nil {
		return nil, err
	}
	for _, m := range list {
		out = append(out, backup.Model{Name: m.Name, Digest: (&weights.Model{Manifest: m}).Digest()})
	}
	return out, nil
}

// snapshot copies the database: out of its file where no host has it, else by way of the host.
func (a *app) snapshot(path, admin string) func(context.Context, io.Writer) error {
	return func(ctx context.Context, w io.Writer) error {
		err := durable.Copy(path, w)
		if !errors.Is(err, durable.ErrElsewhere) {
			return err
		}
		if admin == "" {
			return fmt.Errorf("%w, and server.admin_addr is off: name the server's with --admin, or stop it", err)
		}
		var made struct{ File string }
		if err := a.send(ctx, admin+"/admin/backup", []byte("{}"), &made); err != nil {
			return fmt.Errorf("ask the server that has the database for a copy: %w", err)
		}
		if made.File != server.SnapshotPath(path) {
			return fmt.Errorf("the server at %s has another database: it made %q: %w", admin, made.File, sdk.ErrInvalid)
		}
		f, err := os.Open(made.File)
		if err != nil {
			return fmt.Errorf("open the server's copy: %w", err)
		}
		_, err = io.Copy(w, f)
		return errors.Join(err, f.Close(), os.Remove(made.File))
	}
}

// createBackup writes the backup beside its name, checks it, and gives it the name.
func createBackup(ctx context.Context, src backup.Source, file string) (m *backup.Manifest, size int64, err error) {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, usageError{fmt.Errorf("backup create: %s is there already", file)}
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), ".pimoe-backup-")
	if err != nil {
		return nil, 0, fmt.Errorf("backup create: %w", err)
	}
	defer os.RemoveAll(dir)
	part := filepath.Join(dir, "backup")
	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("backup create: %w", err)
	}
	defer out.Close()
	if _, err = backup.Create(ctx, src, dir, out); err != nil {
		return nil, 0, err
	}
	if err := out.Sync(); err != nil {
		return nil, 0, fmt.Errorf("backup create: %w", err)
	}
	if _, err = out.Seek(0, io.SeekStart); err != nil {
		return nil, 0, err
	}
	if m, err = backup.Verify(ctx, out); err != nil {
		return nil, 0, fmt.Errorf("the backup that was just written: %w", err)
	}
	if size, err = out.Seek(0, io.SeekEnd); err != nil {
		return nil, 0, err
	}
	if err := backup.Place(part, file); err != nil {
		return nil, 0, fmt.Errorf("backup create: %w", err)
	}
	return m, size, nil
}

func writeMarker(home string, m marker) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(home, markerFile), b, 0o600)
}

func (a *app) backupVerify() *cobra.Command {
	return &cobra.Command{
		Use: "verify FILE", Short: "Read a backup to its end and hold every file against its digest", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("backup verify: %w", err)
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				return err
			}
			m, err := backup.Verify(c.Context(), f)
			if err != nil {
				return err
			}
			return a.printBackup(m, st.Size())
		},
	}
}

func (a *app) backupRestore() *cobra.Command {
	return &cobra.Command{
		Use: "restore FILE", Short: "Put a backup into the configured home, which must have none of its files", Args: cobra.ExactArgs(1),
		Long: `Put a backup into the configured home (--home names another one). Everything is read and checked first; no file that
is there is replaced, and nothing is restored that a newer version has written. The configuration goes to config.yaml
in the home, where pimoe does not look for it by itself: compare it, then name it with --config.`,
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("backup restore: %w", err)
			}
			defer f.Close()
			to := a.homePaths(cfg)
			to.Config = filepath.Join(cfg.Home, "config.yaml")
			m, left, err := backup.Restore(c.Context(), f, to, server.CheckState)
			if err != nil {
				return err
			}
			for _, name := range left {
				m.Notes = append(m.Notes, name+": not restored, the configuration has no place for it")
			}
			st, err := f.Stat()
			if err != nil {
				return err
			}
			return a.printBackup(m, st.Size())
		},
	}
}

func (a *app) printBackup(m *backup.Manifest, size int64) error {
	if a.output == "json" {
		return table.JSON(a.out, m)
	}
	rows := make([][]string, len(m.Files))
	for i, f := range m.Files {
		rows[i] = []string{f.Name, progress.Size(f.Size), f.SHA256[:12]}
	}
	if err := table.Write(a.out, []string{"FILE", "SIZE", "SHA-256"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "\n%d files of %s, made %s by pimoe %s, %s in all, every digest is right\n", len(m.Files), m.Home, m.Created.Format(time.DateTime), m.Version, progress.Size(size))
	for _, md := range m.Models {
		fmt.Fprintf(a.out, "model %s %s\n", md.Name, md.Digest)
	}
	for _, n := range m.Notes {
		fmt.Fprintf(a.out, "note: %s\n", oneLine(n))
	}
	return nil
}
