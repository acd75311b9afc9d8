package instance

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
)

// Change is how a group shall be served from now on. An empty field keeps what it is.
type Change struct {
	Backend   string // name of a backend or plugin
	Plugin    string // path of an executable instead
	Precision string // numeric class
}

// Swap replaces a group's processes while requests run; see host.Swap.
func (i *Instance) Swap(ctx context.Context, group string, c Change) (*host.Swapped, error) {
	return i.Host.Swap(ctx, group, i.change(ctx, c))
}

// Try starts a canary or a shadow of a group; see host.Try.
func (i *Instance) Try(ctx context.Context, group, kind string, share, bound float64, c Change) (*host.Trial, error) {
	return i.Host.Try(ctx, group, kind, share, bound, i.change(ctx, c))
}

// Promote ends a trial by putting the new version in place; see host.Promote.
func (i *Instance) Promote(ctx context.Context, group string) (*host.Trial, error) {
	return i.Host.Promote(ctx, group)
}

// Rollback ends a trial.
func (i *Instance) Rollback(ctx context.Context, group string) (*host.Trial, error) {
	return i.Host.Rollback(ctx, group)
}

// Trial is the present or last trial; nil if there was none.
func (i *Instance) Trial() *host.Trial { return i.Host.Trial() }

// change turns a Change into one of the group's description.
func (i *Instance) change(ctx context.Context, c Change) func(*host.GroupSpec) error {
	return func(s *host.GroupSpec) error {
		if c.Backend == "" && c.Plugin == "" && c.Precision == "" {
			return nil // the same program again: a new file at its path, or fresh processes
		}
		if s.Remote != nil {
			return fmt.Errorf("expert group %s runs on other machines (%s): change what runs there, or experts.remote: %w", s.Name, s.Remote.Source, sdk.ErrUnsupported)
		}
		if c.Backend != "" {
			s.Backend, s.Path = c.Backend, pluginPath(i.Applied(), "", "pimoe-expert-", c.Backend)
			s.Precision, s.Device, s.DeviceKey = "auto", "", ""
		}
		if c.Plugin != "" {
			s.Path = c.Plugin
		}
		if c.Precision != "" {
			s.Precision = c.Precision
		}
		if _, err := os.Stat(s.Path); err != nil {
			return fmt.Errorf("plugin %s: %w: %w", s.Path, sdk.ErrInvalid, err)
		}
		packed, err := i.packer.group(ctx, config.GroupPlan{Name: s.Name, Units: s.Units, Backend: s.Backend, Plugin: c.Plugin, Precision: s.Precision})
		if err != nil {
			return err
		}
		s.Packed = packed
		return nil
	}
}

// Lend makes a socket at which a plugin that its author has started gets a group's place; see host.Lend. It is for developers.
func (i *Instance) Lend(group string, patience time.Duration) (socket string, err error) {
	if !i.Config.Plugins.Dev {
		return "", fmt.Errorf("attach: the host was started without plugins.dev (--dev): %w", sdk.ErrUnsupported)
	}
	return i.Host.Lend(group, patience)
}

// Restart gives a group, or one replica of it, fresh processes; see host.Restart.
func (i *Instance) Restart(ctx context.Context, group string, replica int) error {
	return i.Host.Restart(ctx, group, replica)
}

// Drain takes a replica out of use; see host.Drain.
func (i *Instance) Drain(group string, replica int) (*host.GroupStatus, error) {
	return i.Host.Drain(group, replica)
}

// Hurt does to a replica's process what an accident does; see host.Hurt.
func (i *Instance) Hurt(group string, replica int, fault string) (pid int, err error) {
	return i.Host.Hurt(group, replica, fault)
}
