package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	goplugin "github.com/hashicorp/go-plugin"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/bootstrap"
)

// shake reads and judges the handshake line.
func (l *launch) shake() error {
	p := l.p
	select {
	case line, ok := <-p.out.first:
		if !ok {
			return l.ended() // standard output is closed: the process ends, or it is silent for good
		}
		return l.judge(line)
	case <-p.exited:
		return l.ended()
	case <-l.ctx.Done():
		return l.late()
	}
}

func (l *launch) late() error {
	if errors.Is(l.ctx.Err(), context.Canceled) {
		return fmt.Errorf("start plugin %s: %w", l.c.Path, l.ctx.Err())
	}
	return silent(l.c, "it sent no handshake")
}

// ended explains a process that closed its standard output without a handshake.
func (l *launch) ended() error {
	p := l.p
	select {
	case <-p.exited:
	case <-l.ctx.Done():
		return l.late()
	}
	<-p.drained
	if line, ok := <-p.out.first; ok { // it shook hands, or printed something, and ended at once
		if err := l.judge(line); err != nil {
			return err
		}
	}
	d := p.Death()
	e := &StartError{Path: l.c.Path, Reason: ReasonExited, Text: "it ended before the handshake: " + d.withLines(), Death: &d, class: sdk.ErrUnavailable}
	if strings.Contains(strings.Join(d.LastLines, "\n"), "This binary is a plugin. These are not meant to be executed directly.") {
		e.Reason, e.class = ReasonNotOurs, sdk.ErrUnsupported
		e.Text = "it is a go-plugin program of another host: it does not know our magic cookie (" + d.String() + ")"
	}
	return e
}

// judge checks the line "core|protocol|network|address|grpc|..." so that go-plugin has nothing left to refuse.
func (l *launch) judge(line string) error {
	refuse := func(r Reason, class error, format string, args ...any) error {
		return &StartError{Path: l.c.Path, Reason: r, Text: fmt.Sprintf(format, args...), class: class}
	}
	parts := strings.Split(strings.TrimSpace(line), "|")
	core, err := strconv.Atoi(parts[0])
	if len(parts) < 5 || err != nil {
		return refuse(ReasonOutput, sdk.ErrUnavailable, "it printed %q on standard output instead of the handshake", cut(line, 200))
	}
	if core != goplugin.CoreProtocolVersion {
		return refuse(ReasonProtocol, sdk.ErrUnsupported, "it speaks go-plugin's core protocol %d, this host %d", core, goplugin.CoreProtocolVersion)
	}
	if v, err := strconv.Atoi(parts[1]); err != nil || v != bootstrap.Protocol {
		return refuse(ReasonProtocol, sdk.ErrUnsupported, "it speaks protocol version %s, this host %d", cut(parts[1], 20), bootstrap.Protocol)
	}
	if parts[4] != string(goplugin.ProtocolGRPC) {
		return refuse(ReasonProtocol, sdk.ErrUnsupported, "it speaks %q, this host %q", cut(parts[4], 20), goplugin.ProtocolGRPC)
	}
	if l.exe != nil && !filepath.IsAbs(parts[3]) {
		parts[3] = filepath.Join(l.p.dir, parts[3])
	}
	if parts[2] != "unix" || filepath.Dir(parts[3]) != l.p.dir {
		return refuse(ReasonAddress, sdk.ErrUnavailable, "it named the address %s %q, which is no socket in its own folder", cut(parts[2], 20), cut(parts[3], 200))
	}
	st, err := os.Lstat(parts[3])
	if err != nil || st.Mode().Type() != fs.ModeSocket {
		return refuse(ReasonAddress, sdk.ErrUnavailable, "it named the address %q, which is no socket", cut(parts[3], 200))
	}
	l.address, l.line = parts[3], strings.Join(parts[:5], "|")+"|\n"
	if l.exe != nil { // it has its socket and makes nothing more there
		if err := os.Chmod(l.p.dir, 0o500); err != nil {
			return fmt.Errorf("start plugin %s: %w", l.c.Path, err)
		}
	}
	return nil
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "..."
}
