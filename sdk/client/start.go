package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/bootstrap"
	"github.com/pimoe/pimoe/sdk/internal/plane"
)

// Start starts a plugin process and returns when it has shaken hands and told its Info. It never takes longer than the
// context or the command's StartTimeout. After an error nothing is left of the try. Blame lies with the plugin if the
// error is a *StartError.
func Start(ctx context.Context, c Command) (*Process, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("start plugin %s: %w", c.Path, err)
	}
	if c.Guest == nil {
		if err := executable(c.Path); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.StartTimeout)
	defer cancel()
	if c.Confinement == nil {
		c.Confinement = NewConfinement(ConfinementOptions{})
		defer c.Confinement.Close()
	}
	p := &Process{
		name: shortName(c.Path), exited: make(chan struct{}), drained: make(chan struct{}), stopped: make(chan struct{}),
	}
	p.gone, p.cancel = context.WithCancel(context.Background())
	if err := p.start(ctx, c); err != nil {
		p.abandon()
		return nil, err
	}
	return p, nil
}

// abandon undoes a start that failed. What a process holds that can't be ended stays with it.
func (p *Process) abandon() {
	defer p.cancel()
	if p.cmd != nil || p.guest != nil && p.guest.pid != 0 {
		p.Kill()
		if !p.dies() {
			return
		}
	}
	p.free()
}

// executable tells the two commonest mistakes apart before anything is made.
func executable(path string) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &StartError{Path: path, Reason: ReasonMissing, Text: "there is no such file", class: sdk.ErrUnavailable, cause: fs.ErrNotExist}
	case err != nil:
		return &StartError{Path: path, Reason: ReasonMissing, Text: err.Error(), class: sdk.ErrUnavailable, cause: err}
	case st.IsDir():
		return notExecutable(path, "it is a folder, not a program", nil)
	case unix.Access(path, unix.X_OK) != nil:
		return notExecutable(path, fmt.Sprintf("the file is not executable (mode %v)", st.Mode()), fs.ErrPermission)
	}
	return nil
}

func notExecutable(path, text string, cause error) error {
	return &StartError{Path: path, Reason: ReasonNotExecutable, Text: text, class: sdk.ErrUnavailable, cause: cause}
}

func (p *Process) start(ctx context.Context, c Command) error {
	var err error
	if p.dir, err = os.MkdirTemp(c.RuntimeDir, "p"); err != nil { // mode 0700
		return fmt.Errorf("start plugin %s: %w", c.Path, err)
	}
	if c.Transport == TransportSHM && plane.Supported {
		if p.plane, err = plane.NewHost(plane.Spec(c.Plane), c.Cores); err != nil {
			return fmt.Errorf("start plugin %s: %w", c.Path, err)
		}
	}
	cert, key, der, err := c.Identity.issue(p.name, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return fmt.Errorf("start plugin %s: %w", c.Path, err)
	}
	l := &launch{p: p, c: c, ctx: ctx, doc: bootstrap.Document{
		Protocol: bootstrap.Protocol, Kind: string(c.Kind), Transport: string(p.Transport()),
		Key: string(key), Cert: string(cert), ClientCA: string(c.Identity.pem),
	}}
	defer l.close()
	if err := l.take(c); err != nil {
		return err
	}
	if err := p.connect(ctx, c, l, der); err != nil {
		return err
	}
	if p.bounds, err = l.bounds(); err != nil {
		return &StartError{Path: c.Path, Reason: ReasonConfinement, Text: err.Error(), class: sdk.ErrUnavailable, cause: err}
	}
	return nil
}
