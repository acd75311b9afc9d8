package client

import (
	"bufio"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxLine   = 8 << 10 // longer lines are cut
	lastLines = 20      // kept of standard error for a Death
	// A plugin that floods its log is slowed down: what it writes beyond this in a tenth of a second waits in the pipe,
	// and the pipe makes the writer wait. 10 MiB a second is far above any honest log.
	floodBytes = 1 << 20
	floodTime  = 100 * time.Millisecond
)

// streams are the pipes of a process's standard output and error. The host reads from stdout and stderr.
type streams struct{ stdout, stderr, childOut, childErr *os.File }

func newStreams() (s *streams, err error) {
	s = &streams{}
	if s.stdout, s.childOut, err = os.Pipe(); err != nil {
		return nil, err
	}
	if s.stderr, s.childErr, err = os.Pipe(); err != nil {
		s.stdout.Close()
		s.childOut.Close()
		return nil, err
	}
	return s, nil
}

// given closes the process's ends: it has its own, or never will have.
func (s *streams) given() {
	s.childOut.Close()
	s.childErr.Close()
}

// close closes the host's ends.
func (s *streams) close() {
	s.stdout.Close()
	s.stderr.Close()
}

// end bounds what is still read: what is in the pipes is, but a grandchild that keeps them open is not waited for.
func (s *streams) end(within time.Duration) {
	deadline := time.Now().Add(within)
	s.stdout.SetReadDeadline(deadline)
	s.stderr.SetReadDeadline(deadline)
}

// output reads a process's standard streams to their end: by lines, with bounds, never waiting for a grandchild that
// keeps the pipes open after the process has ended.
type output struct {
	log   func(string)
	first chan string // the first line on standard output; closed without one at its end
	wg    sync.WaitGroup

	logging sync.Mutex // held while log is called; a log that blocks keeps nobody from asking how the process died

	mu    sync.Mutex // guards all below
	last  []string
	cause string // the line with which a Go program began to die; its stack traces push it out of last
}

func newOutput(log func(string), s *streams) *output {
	if log == nil {
		log = func(string) {}
	}
	o := &output{log: log, first: make(chan string, 1)}
	o.wg.Add(2)
	go func() {
		defer o.wg.Done()
		defer close(o.first)
		handshake := false
		readLines(s.stdout, func(line string) {
			if !handshake {
				handshake = true
				o.first <- line
				return
			}
			o.line("stdout: "+line, false)
		})
	}()
	go func() {
		defer o.wg.Done()
		readLines(s.stderr, func(line string) { o.line(line, true) })
	}()
	return o
}

func (o *output) line(s string, keep bool) {
	if keep {
		o.keep(s)
	}
	o.logging.Lock()
	defer o.logging.Unlock()
	o.log(s)
}

func (o *output) keep(s string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if strings.HasPrefix(s, "panic: ") || strings.HasPrefix(s, "fatal error: ") {
		o.cause = s
	}
	if len(o.last) == lastLines {
		o.last = append(o.last[:0], o.last[1:]...)
	}
	o.last = append(o.last, s)
}

func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := append([]string(nil), o.last...)
	if o.cause != "" && !slices.Contains(last, o.cause) {
		last = append([]string{o.cause}, last...)
	}
	return last
}

// readLines calls f for each line, cut at maxLine, until the end or an error.
func readLines(r io.Reader, f func(string)) {
	b := bufio.NewReaderSize(&paced{r: r}, maxLine)
	for {
		line, err := b.ReadSlice('\n')
		if len(line) > 0 {
			f(strings.TrimRight(string(line), "\r\n"))
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of an over-long line
			_, err = b.ReadSlice('\n')
		}
		if err != nil {
			return
		}
	}
}

// paced lets floodBytes through in a floodTime.
type paced struct {
	r     io.Reader
	since time.Time
	got   int
}

func (p *paced) Read(b []byte) (int, error) {
	if now := time.Now(); now.Sub(p.since) > floodTime {
		p.since, p.got = now, 0
	}
	if p.got > floodBytes {
		time.Sleep(time.Until(p.since.Add(floodTime)))
	}
	n, err := p.r.Read(b)
	p.got += n
	return n, err
}
