package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server"
	"github.com/pimoe/pimoe/server/handover"
	"github.com/pimoe/pimoe/server/instance"
)

// former is the host that is being taken over; its methods do nothing where there is none.
type former struct{ talk *handover.Successor }

// predecessor finds the running host with the configured address. Where nobody runs, this is a start like any other.
func predecessor(cfg config.Config, wanted bool) (*former, error) {
	if !wanted {
		return &former{}, nil
	}
	path, err := handoverPath(cfg)
	if err != nil {
		return nil, err
	}
	talk, err := handover.Dial(path)
	if errors.Is(err, handover.ErrNobody) {
		return &former{}, nil
	}
	return &former{talk}, err
}

func handoverPath(cfg config.Config) (string, error) {
	dir, err := instance.RuntimeDir(cfg.Home)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make runtime folder: %w", err)
	}
	return handover.Path(dir, cfg.Server.Addr), nil
}

// take gets the former host's listeners; none if it has ended meanwhile.
func (f *former) take() ([]handover.Listener, error) {
	if f.talk == nil {
		return nil, nil
	}
	list, err := f.talk.Take()
	if errors.Is(err, handover.ErrNobody) {
		return nil, nil
	}
	return list, err
}

// serving lets the former host go.
func (f *former) serving(log *slog.Logger) {
	if f.talk == nil {
		return
	}
	if err := f.talk.Serving(); err != nil {
		log.Warn("the host before could not be told", "err", err) // it has ended
		return
	}
	log.Info("took over the listeners of the host before")
}

// Close ends the talk.
func (f *former) Close() {
	if f.talk != nil {
		f.talk.Close()
	}
}

// offer offers the server's listeners to a successor.
func (a *app) offer(cfg config.Config, srv *server.Server, log *slog.Logger) (*handover.Offer, error) {
	path, err := handoverPath(cfg)
	if err != nil {
		return nil, err
	}
	return handover.New(path, srv.Listeners(), log)
}

// leaveWhen has the server leave when somebody else has its listeners. The function that it returns ends the waiting.
func leaveWhen(taken <-chan struct{}, srv *server.Server) (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-taken:
			srv.Leave()
		case <-over:
		}
	}()
	return func() { close(over); <-ended }
}

// succeed starts a successor with this process's command line. It outlives this process.
func succeed(log *slog.Logger) {
	args := os.Args[1:]
	if !slices.Contains(args, "--take-over") {
		args = append(slices.Clone(args), "--take-over")
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		log.Error("start a successor", "err", err)
		return
	}
	log.Info("a successor starts", "pid", cmd.Process.Pid)
	go func() { // ends with the successor or with this process
		if err := cmd.Wait(); err != nil {
			log.Error("the successor has failed, this host goes on", "err", err)
		}
	}()
}

// tellSystem tells systemd (sd_notify(3)) that this process is ready and the one to watch.
func tellSystem(log *slog.Logger) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if name, abstract := strings.CutPrefix(path, "@"); abstract {
		path = "\x00" + name
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = fmt.Fprintf(conn, "READY=1\nMAINPID=%d", os.Getpid())
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		log.Warn("tell the service manager", "err", err)
	}
}
