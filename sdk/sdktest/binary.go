package sdktest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
)

// stopLimit is how long a plugin may take to end after SIGTERM; the host is no more patient.
const stopLimit = 2 * time.Second

// Binary runs the suite on an executable, over shared memory and over gRPC, and writes a line for each check. The
// plugin's own log is left out; the end of it is told where a process doesn't start or dies. It returns an error if any check failed.
func Binary(ctx context.Context, path string, out io.Writer) error {
	return Interpreted(ctx, path, nil, out)
}

// Interpreted is Binary for a script with a profile.
func Interpreted(ctx context.Context, path string, profile *client.Profile, out io.Writer) error {
	dir, err := os.MkdirTemp("", "pm") // short, because a socket's name is
	if err != nil {
		return fmt.Errorf("test plugin %s: %w", path, err)
	}
	defer os.RemoveAll(dir)
	id, err := client.NewIdentity()
	if err != nil {
		return fmt.Errorf("test plugin %s: %w", path, err)
	}
	// Confined as a host does it, but it is the author's own file, wherever that lies.
	confinement := client.NewConfinement(client.ConfinementOptions{Trusting: true})
	defer confinement.Close()
	b := &program{command: client.Command{Path: path, RuntimeDir: dir, Identity: id, Confinement: confinement, Profile: profile}, out: out}
	kind, failed := b.meet(ctx)
	if failed == 0 {
		failed = b.run(ctx, kind)
	}
	if failed > 0 {
		return fmt.Errorf("test plugin %s: %d checks failed", path, failed)
	}
	return nil
}

type program struct {
	command client.Command
	out     io.Writer

	grpcOnly bool // it leaves shared memory alone
}

// meet starts the plugin once to see what it is.
func (b *program) meet(ctx context.Context) (kind sdk.Kind, failed int) {
	failed = report(ctx, b.out, "", []check{{"starts, tells what it is, ends on SIGTERM", func(ctx context.Context) (string, error) {
		c := b.command
		c.Transport = client.TransportGRPC
		p, err := client.Start(ctx, c)
		if err != nil {
			return "", err
		}
		info := p.Info()
		kind, b.grpcOnly = info.Kind, info.Has(sdk.CapGRPCOnly)
		if err := stopped(p); err != nil {
			return "", err
		}
		return strings.TrimSpace(fmt.Sprintf("%s %s %s", kind, info.Name, info.Version)), nil
	}}})
	return kind, failed
}

func (b *program) run(ctx context.Context, kind sdk.Kind) (failed int) {
	var expertBefore *expertSuite
	var routerBefore *routerSuite
	for _, transport := range []client.Transport{client.TransportSHM, client.TransportGRPC} {
		if transport == client.TransportSHM && b.grpcOnly {
			continue
		}
		c := b.command
		c.Transport, c.Kind = transport, kind
		var checks []check
		if kind == sdk.KindExpert {
			s := &expertSuite{subject: process{c, maxRows}}
			if expertBefore != nil {
				s.other = expertBefore.answer
			}
			checks, expertBefore = s.checks(), s
		} else {
			s := &routerSuite{subject: processRouter{c, maxRows}}
			if routerBefore != nil {
				s.other = routerBefore.answer
			}
			checks, routerBefore = s.checks(), s
		}
		checks = append(checks, check{"nothing is left in the runtime folder", func(context.Context) (string, error) { return "", b.empty() }})
		failed += report(ctx, b.out, string(transport), checks)
	}
	return failed
}

func (b *program) empty() error {
	left, err := os.ReadDir(b.command.RuntimeDir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return errors.New("left: " + left[0].Name())
	}
	return nil
}
