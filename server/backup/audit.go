package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/audit"
)

const (
	// auditTries is how often the log is copied again because a record came in between; a host writes some a second at most.
	auditTries = 50
	auditPause = 20 * time.Millisecond
)

// audit copies the log into the folder, between two records: its head is the same before and after, and the copy is what the
// head says. A log that is not whole is taken all the same, and noted.
func (c *collection) audit(path string) error {
	if path == "" {
		c.note("%s: audit.file is off", strings.TrimSuffix(auditName, "/"))
		return nil
	}
	dir := filepath.Join(c.dir, "audit")
	copied := filepath.Join(dir, filepath.Base(path))
	var fault *audit.Fault
	for range auditTries {
		names, still, err := copyLog(path, dir)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			c.note("%s: there is none", strings.TrimSuffix(auditName, "/"))
			return nil
		}
		_, err = audit.Verify(copied, "", true)
		if err != nil && !errors.As(err, &fault) {
			return err
		}
		if still && err == nil {
			return c.addAudit(dir, names)
		}
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-time.After(auditPause):
		}
	}
	if fault == nil {
		return fmt.Errorf("copy %s: it was never at rest: %w", path, sdk.ErrUnavailable)
	}
	names, _, err := copyLog(path, dir)
	if err != nil {
		return err
	}
	c.note("audit: the log is not whole: %s", fault.Text)
	return c.addAudit(dir, names)
}

func (c *collection) addAudit(dir string, names []string) error {
	for _, n := range names {
		if err := c.add(auditName+n, filepath.Join(dir, n)); err != nil {
			return err
		}
	}
	return nil
}

// copyLog copies the files of a log and reports whether its head was the same all the time.
func copyLog(path, dir string) (names []string, still bool, err error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, false, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, false, err
	}
	head := func() []byte { b, _ := os.ReadFile(path + ".head"); return b }
	before := head()
	all, err := filepath.Glob(path + "*")
	if err != nil {
		return nil, false, err
	}
	all = slices.DeleteFunc(all, func(name string) bool { return strings.HasSuffix(name, ".lock") })
	for _, name := range all {
		if err := copyFile(name, filepath.Join(dir, filepath.Base(name))); errors.Is(err, fs.ErrNotExist) {
			return names, false, nil // it was put aside just now
		} else if err != nil {
			return nil, false, err
		}
		names = append(names, filepath.Base(name))
	}
	return names, bytes.Equal(before, head()), nil
}

func copyFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return errors.Join(err, out.Close())
}
