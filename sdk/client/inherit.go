package client

import (
	"fmt"
	"os"
	"os/exec"

	goplugin "github.com/hashicorp/go-plugin"

	"github.com/pimoe/pimoe/sdk/internal/bootstrap"
	"github.com/pimoe/pimoe/sdk/internal/confine"
	"github.com/pimoe/pimoe/sdk/internal/plane"
)

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
