package client

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/bootstrap"
	"github.com/pimoe/pimoe/sdk/internal/confine"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/plane"
	"github.com/pimoe/pimoe/sdk/internal/service"
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

// abandon undoes a start that failed.
func (p *Process) abandon() {
	if p.cmd != nil || p.guest != nil && p.guest.pid != 0 {
		p.Kill()
		<-p.exited
	}
	p.cancel()
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

// connect lets go-plugin run the launch and dial. go-plugin's own pieces that a hostile plugin could use, its broker
// and its copying of standard streams, are refused before they leave the host.
func (p *Process) connect(ctx context.Context, c Command, l *launch, der []byte) error {
	p.client = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: bootstrap.Protocol, MagicCookieKey: bootstrap.CookieKey, MagicCookieValue: bootstrap.CookieValue,
		},
		Plugins:          goplugin.PluginSet{"pimoe": dialed{}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			l.env = cmd.Env
			return l, nil
		},
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: p.dir},
		TLSConfig:        c.Identity.tlsFor(der),
		SkipHostEnv:      true,
		StartTimeout:     c.StartTimeout,
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithContextDialer(p.dial(l)),
			grpc.WithStreamInterceptor(refuseStreams),
			grpc.WithIdleTimeout(0),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(service.MaxMessage), grpc.MaxCallSendMsgSize(service.MaxMessage)),
		},
	})
	proto, err := p.client.Client()
	if err != nil {
		return err // the launch's own error: go-plugin returns it as it is
	}
	raw, err := proto.Dispense("pimoe")
	if err != nil {
		return fmt.Errorf("start plugin %s: %w", c.Path, err)
	}
	p.conn = raw.(*grpc.ClientConn)
	p.link = newLink(p, p.conn)
	return p.meet(ctx, c, l)
}

// meet asks for the Info, which also tells an expert from a router.
func (p *Process) meet(ctx context.Context, c Command, l *launch) error {
	want := c.Kind
	if want == "" {
		want = sdk.KindExpert
	}
	info, err := p.ask(ctx, want)
	if errors.Is(err, sdk.ErrUnsupported) {
		other := sdk.KindRouter
		if want == sdk.KindRouter {
			other = sdk.KindExpert
		}
		if info, err = p.ask(ctx, other); err == nil && c.Kind != "" {
			return &StartError{Path: c.Path, Reason: ReasonKind, Text: fmt.Sprintf("it is a plugin of kind %q, not %q", other, want), class: sdk.ErrUnsupported}
		}
		want = other
	}
	var dead *DeadError
	switch {
	case errors.As(err, &dead):
		d := p.Death()
		return &StartError{Path: c.Path, Reason: ReasonExited, Text: "it ended right after the handshake: " + d.withLines(), Death: &d, class: sdk.ErrUnavailable}
	case l.stranger.Load() != nil:
		return &StartError{Path: c.Path, Reason: ReasonAddress, Text: (*l.stranger.Load()).Error(), class: sdk.ErrUnavailable}
	case errors.Is(err, sdk.ErrDeadline):
		return silent(c, "it shook hands but did not answer")
	case err != nil:
		return &StartError{Path: c.Path, Reason: ReasonControl, Text: "no answer on its control socket: " + err.Error(), class: sdk.ErrUnavailable, cause: err}
	}
	p.link.kind = want
	info.Kind = string(want)
	p.link.info.Store(info)
	if p.link.Info().Has(sdk.CapGRPCOnly) {
		p.bare, p.link.plane = true, nil
	}
	return nil
}

func silent(c Command, what string) error {
	return &StartError{Path: c.Path, Reason: ReasonTimeout, Text: fmt.Sprintf("%s within %v", what, c.StartTimeout), class: sdk.ErrDeadline}
}

func (p *Process) ask(ctx context.Context, kind sdk.Kind) (info *pb.InfoReply, err error) {
	err = p.link.call(ctx, func(ctx context.Context) (err error) {
		if kind == sdk.KindRouter {
			info, err = p.link.router.Info(ctx, &pb.InfoRequest{})
		} else {
			info, err = p.link.expert.Info(ctx, &pb.InfoRequest{})
		}
		return err
	})
	return info, err
}

// refuseStreams: PiMoE's services have no streams; go-plugin's broker and its copy of standard output do.
func refuseStreams(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "not used")
}

// dial reaches the socket that the handshake named, which was checked to lie in the process's own folder, and makes
// sure that the child is who listens there.
func (p *Process) dial(l *launch) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", l.address)
		if err != nil {
			return nil, err
		}
		pid, err := peerPID(conn.(*net.UnixConn))
		if err == nil && p.guest == nil && pid != p.PID() { // a guest may be a debugger's child
			err = fmt.Errorf("process %d listens on the socket of process %d", pid, p.PID())
		}
		if err != nil {
			conn.Close()
			l.stranger.Store(&err)
			return nil, err
		}
		return conn, nil
	}
}

// dialed gives go-plugin's connection out.
type dialed struct {
	goplugin.NetRPCUnsupportedPlugin
}

func (dialed) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error {
	return errors.New("package client has no server half")
}

func (dialed) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}

// launch is go-plugin's runner: the fork, the exec and the handshake are ours, and go-plugin sees only a line that was
// checked.
type launch struct {
	p       *Process
	c       Command
	ctx     context.Context
	doc     bootstrap.Document
	env     []string // what a go-plugin server expects to find
	line    string   // the handshake
	address string   // of the control socket

	exe     *confine.Executable // nil = the process is not confined, as is confine
	script  *confine.Executable // what an interpreter executes, if it is confined
	confine *confine.Launch

	stranger atomic.Pointer[error] // somebody else listens there
}

// Start implements runner.Runner.
func (l *launch) Start(ctx context.Context) error {
	spawn := l.spawn
	if l.c.Guest != nil {
		spawn = func() error { return l.invite(ctx) }
	}
	if err := spawn(); err != nil {
		return err
	}
	return l.shake()
}

// spawn makes the process with everything that it inherits.
func (l *launch) spawn() error {
	p := l.p
	fail := func(err error) error { return fmt.Errorf("start plugin %s: %w", l.c.Path, err) }
	stdoutR, stdoutW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	defer stdoutW.Close()
	stderrR, stderrW, err := os.Pipe()
	if err != nil {
		stdoutR.Close()
		return fail(err)
	}
	defer stderrW.Close()
	cmd, closeAfter, err := l.command()
	defer func() {
		for _, f := range closeAfter {
			f.Close()
		}
		if p.plane != nil {
			p.plane.CloseFiles()
		}
	}()
	if err == nil {
		theOOM.look()
		err = l.run(cmd, func(cmd *exec.Cmd) error {
			cmd.Stdout, cmd.Stderr = stdoutW, stderrW
			return theStarter.run(cmd.Start)
		})
	}
	if err != nil {
		stdoutR.Close()
		stderrR.Close()
		return l.unstarted(err, fail)
	}
	p.out = newOutput(l.c.Log, stdoutR, stderrR)
	go p.reap(stdoutR, stderrR)
	if l.confine != nil {
		deadline, _ := l.ctx.Deadline()
		if err := l.confine.Wait(deadline); errors.Is(err, os.ErrDeadlineExceeded) {
			return l.late()
		} else if err != nil {
			return l.unstarted(err, fail)
		}
	}
	return nil
}

// invite is spawn for a process that its author starts.
func (l *launch) invite(ctx context.Context) error {
	p := l.p
	fail := func(err error) error { return fmt.Errorf("attach plugin %s: %w", l.c.Path, err) }
	p.guest = &guest{conn: l.c.Guest, in: bufio.NewReader(l.c.Guest)}
	stdoutR, stdoutW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	defer stdoutW.Close()
	stderrR, stderrW, err := os.Pipe()
	if err != nil {
		stdoutR.Close()
		return fail(err)
	}
	defer stderrW.Close()
	cmd, closeAfter, err := l.command()
	if err == nil {
		files := append([]*os.File{stdoutW, stderrW}, cmd.ExtraFiles...)
		err = p.guest.give(ctx, gift{Env: cmd.Env, Dir: cmd.Dir}, files)
	}
	for _, f := range closeAfter {
		f.Close()
	}
	if p.plane != nil {
		p.plane.CloseFiles()
	}
	if err != nil {
		p.guest.pid = 0
		stdoutR.Close()
		stderrR.Close()
		return fail(err)
	}
	p.out = newOutput(l.c.Log, stdoutR, stderrR)
	go p.reapGuest(stdoutR, stderrR)
	return nil
}

// run starts the command, as it is or by way of the launch that confines it.
func (l *launch) run(cmd *exec.Cmd, start func(*exec.Cmd) error) error {
	if l.confine == nil {
		l.p.cmd = cmd
		if err := start(cmd); err != nil {
			l.p.cmd = nil
			return err
		}
		return nil
	}
	if err := l.confine.Start(start); err != nil {
		return err
	}
	l.p.cmd, l.p.group = l.confine.Cmd, l.confine.Group
	return nil
}

// unstarted is the error of a process that was not made or did not become the plugin.
func (l *launch) unstarted(err error, fail func(error) error) error {
	if errors.Is(err, syscall.ENOEXEC) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return notExecutable(l.c.Path, "it can't be executed here: "+err.Error(), err)
	}
	return fail(err)
}

// take checks what shall be executed, and keeps sealed copies of it.
func (l *launch) take(c Command) (err error) {
	if c.Guest != nil {
		return nil
	}
	if c.Profile != nil {
		if l.c.Profile, err = c.Profile.Resolve(c.Path); err != nil {
			return notExecutable(c.Path, err.Error(), err)
		}
	}
	if !l.c.Profile.script() {
		l.exe, l.p.digest, err = c.Confinement.executable(c.Path, c.Program)
		if err == nil && l.c.Profile != nil {
			if err = l.c.Profile.checkReads(c.Confinement.options.Trusting); err != nil {
				err = refusedFile(c.Path, err)
			}
		}
		return err
	}
	l.exe, l.script, l.p.digest, err = c.Confinement.interpreted(c.Path, l.c.Profile, c.Program)
	return err
}

// bounds are the measures that confine the process.
func (l *launch) bounds() ([]Measure, error) {
	if l.c.Guest != nil {
		return []Measure{{Name: "confinement", Detail: "attached: its author has started it"}}, nil
	}
	if l.confine == nil {
		return l.c.Confinement.unconfined(), nil
	}
	measures, err := l.confine.Verify(l.p.PID())
	if err == nil && l.c.Profile != nil {
		measures = append(measures, l.c.Profile.measure(l.exe.Digest))
	}
	return measures, err
}

// close frees what only the start needed.
func (l *launch) close() {
	if l.exe != nil {
		l.exe.Close()
	}
	if l.script != nil {
		l.script.Close()
	}
	if l.confine != nil {
		l.confine.Close()
	}
}

// command lays out the descriptors that the child inherits and writes their numbers into the bootstrap document. The
// files returned are the child's alone and closed after its start.
func (l *launch) command() (cmd *exec.Cmd, closeAfter []*os.File, err error) {
	p := l.p
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	p.life = lifeW // held open as long as the host lives
	closeAfter = append(closeAfter, lifeR)

	const first = 3 // after the standard streams
	files := []*os.File{nil, lifeR}
	inherit := func(f *os.File) int {
		files = append(files, f)
		return first + len(files) - 1
	}
	l.doc.Lifeline = first + 1
	if p.plane != nil {
		requests, results := p.plane.Files()
		l.doc.Plane = &bootstrap.Plane{Version: plane.Version, Requests: inherit(requests), Results: inherit(results), Layout: p.plane.Layout(), Cores: l.c.Cores}
	}
	for _, f := range l.c.Shards {
		l.doc.Shards = append(l.doc.Shards, inherit(f))
	}
	if files[0], err = bootstrap.Write(l.doc, p.dir); err != nil {
		return nil, closeAfter, err
	}
	closeAfter = append(closeAfter, files[0])
	args, opened, err := l.arguments(inherit)
	closeAfter = append(closeAfter, opened...)
	if err != nil {
		return nil, closeAfter, err
	}
	cmd = &exec.Cmd{
		Path:        args[0],
		Args:        args,
		Dir:         p.dir,
		ExtraFiles:  files,
		SysProcAttr: attributes(),
	}
	sockets := p.dir
	if l.exe != nil {
		sockets = "." // the folders above are closed to it
	}
	cmd.Env = append(cmd.Env, l.c.Env...)
	cmd.Env = append(cmd.Env, l.c.Profile.environment()...)
	cmd.Env = append(cmd.Env, l.env...)
	cmd.Env = append(cmd.Env, goplugin.EnvUnixSocketDir+"="+sockets, fmt.Sprintf("%s=%d", bootstrap.FDKey, first))
	if l.exe != nil {
		l.confine, err = l.c.Confinement.confined(confine.Spec{
			Args: cmd.Args, Env: cmd.Environ(), Dir: p.dir, Exe: l.exe, Files: files, Weights: size(l.c.Shards), Shared: p.SharedBytes(),
			Profile: l.c.Profile.kind(), Reads: l.c.Profile.readPaths(),
		})
	}
	return cmd, closeAfter, err
}

// arguments are the command line. An interpreter inherits its script: a file that is opened is the child's alone.
func (l *launch) arguments(inherit func(*os.File) int) (args []string, opened []*os.File, err error) {
	if !l.c.Profile.script() {
		return append([]string{l.c.Path}, l.c.Args...), nil, nil
	}
	var script *os.File
	if l.script != nil {
		script = l.script.File()
	} else {
		if script, err = os.Open(l.c.Path); err != nil {
			return nil, nil, err
		}
		opened = append(opened, script)
	}
	return l.c.Profile.interpret(l.c.Path, inherit(script), l.c.Args), opened, nil
}

// size is the length of all files together.
func size(files []*os.File) (n int64) {
	for _, f := range files {
		if st, err := f.Stat(); err == nil {
			n += st.Size()
		}
	}
	return n
}

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

// The rest of runner.Runner: what go-plugin sees of the process.

// Stdout gives go-plugin the checked line and nothing else.
func (l *launch) Stdout() io.ReadCloser { return io.NopCloser(strings.NewReader(l.line)) }

// Stderr is read by output.
func (l *launch) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name implements runner.Runner.
func (l *launch) Name() string { return l.c.Path }

// Diagnose implements runner.Runner.
func (l *launch) Diagnose(context.Context) string { return "" }

// Wait blocks until the process has ended.
func (l *launch) Wait(context.Context) error {
	<-l.p.exited
	return nil
}

// Kill ends the process.
func (l *launch) Kill(context.Context) error {
	if l.p.cmd == nil && l.p.guest == nil {
		return nil
	}
	return l.p.Kill()
}

// ID implements runner.Runner.
func (l *launch) ID() string { return strconv.Itoa(l.p.PID()) }

// PluginToHost implements runner.Runner; the address has been checked.
func (l *launch) PluginToHost(network, address string) (string, string, error) {
	return network, address, nil
}

// HostToPlugin implements runner.Runner.
func (l *launch) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

var _ runner.Runner = (*launch)(nil)
