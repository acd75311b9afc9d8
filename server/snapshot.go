package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
)

const backupPath = "/admin/backup"

// snapshotRoutes let a backup have the database, which no other process can read while this one has it.
func (s *Server) snapshotRoutes() []route {
	return []route{{method: http.MethodPost, path: backupPath, change: &change{"backup.snapshot", nil}, handle: s.snapshot}}
}

// SnapshotPath is where a server puts a copy of its database: beside it, so that it is on the same disk and as private.
func SnapshotPath(state string) string { return state + ".backup" }

// snapshot is POST /admin/backup: a copy of the database as of one moment, beside it. Whoever asks takes the file away; the next
// copy replaces it. It takes an empty object, as reloadNow does.
func (s *Server) snapshot(ctx context.Context, r *request) (*reply, error) {
	if err := emptyBody(r.body); err != nil {
		return nil, err
	}
	path := s.cfg.State.Path(s.cfg.Home)
	if s.state.db == nil || path == "" {
		return jsonReply(map[string]string{"file": ""}), nil
	}
	s.copying.Lock()
	defer s.copying.Unlock()
	part := SnapshotPath(path) + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make snapshot: %w", err)
	}
	err = errors.Join(s.state.db.WriteTo(ctx, f), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(part, SnapshotPath(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make snapshot: %w", err), os.Remove(part))
	}
	return jsonReply(map[string]string{"file": SnapshotPath(path)}), nil
}
