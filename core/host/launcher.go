package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"strconv"
	"sync"

	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
)

// The steps in which a start can fail; publicCause words them for clients, the logs have the whole error.
var (
	errNotExecutable = errors.New("plugin executable can't be used")
	errBadShard      = errors.New("weight shard can't be used")
	errHandshake     = errors.New("handshake failed")
	errLoad          = errors.New("load failed")
	errWrongAnswer   = errors.New("known-answer test failed")
	errNoBackend     = errors.New("backend can't compute on this machine")
)

// launcher brings processes up to the point where they may serve.
type launcher struct {
	options    Options
	identity   *client.Identity
	runtimeDir string
	shards     *shardSet
	plain      sync.Map // path of an executable that takes no packed weights: true
	lanes      lanes
	fleet      *fleet
	recheck    *recheck
	seen       *observations
	heat       *heat
	looked     sync.Once // at the measures that confine the first process
}

// errRowMajor says that a plugin was started with packed weights and does not take them.
var errRowMajor = errors.New("the plugin takes row-major weights only")

// expert starts a process with lanes on its own cores, gives it its weights and asks a question with a known answer. On an
// error nothing is left. Weights are inherited at the start, before a plugin can say which packings it takes: one that does
// not take the group's is started again with row-major ones, and known from then on.
func (l *launcher) expert(ctx context.Context, name string, spec GroupSpec, own []int, answers *knownAnswers, program *client.Program) (*incarnation, error) {
	if _, plain := l.plain.Load(spec.Path); plain {
		spec.Packed = nil
	}
	inc, err := l.incarnate(ctx, name, spec, own, answers, program)
	if errors.Is(err, errRowMajor) {
		l.plain.Store(spec.Path, true)
		spec.Packed = nil
		return l.incarnate(ctx, name, spec, own, answers, program)
	}
	return inc, err
}

func (l *launcher) incarnate(ctx context.Context, name string, spec GroupSpec, own []int, answers *knownAnswers, program *client.Program) (*incarnation, error) {
	shards, load, err := l.shards.forUnits(ctx, source(l.options.Model, spec.Packed), spec.Units)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadShard, err)
	}
	shape := l.options.Experts
	command := client.Command{
		Path: spec.Path, Kind: sdk.KindExpert, Shards: shards, Plane: client.ExpertPlane(l.options.MaxRows, shape.Hidden, 0),
		Env: environment(l.options.ProcessCores), Program: program,
	}
	l.lanes.apply(&command, own)
	if spec.Guest != nil {
		if spec.Guest.used.Swap(true) {
			return nil, errGuestLeft
		}
		command.Guest = spec.Guest.conn
	}
	if err := l.profile(&command, spec.Backend); err != nil {
		return nil, err
	}
	proc, err := l.start(ctx, command, name, spec.Name, spec.Pins)
	if err != nil {
		return nil, err
	}
	e := proc.Expert()
	inc := &incarnation{proc: child{proc}, expert: e, digest: proc.Digest(), condemn: make(chan struct{})}
	if spec.Packed != nil && !takes(e.Info(), spec.Packed) {
		return nil, l.abandon(inc, errRowMajor)
	}
	load.Spec = expert.Spec{
		Hidden: shape.Hidden, Intermediate: shape.Intermediate, Activation: shape.Activation,
		NumericClass: spec.Precision, Params: spec.params(),
	}
	if err := e.LoadShards(ctx, load); err != nil {
		if spec.Device != "" {
			err = fmt.Errorf("with %s: %s: %w", spec.DeviceKey, spec.Device, err)
		}
		return nil, l.abandon(inc, fmt.Errorf("%w: %w", errLoad, err))
	}
	inc.info = e.Info()
	if err := answers.admit(ctx, inc.info, e); err != nil {
		return nil, l.abandon(inc, fmt.Errorf("%w: %w", errWrongAnswer, err))
	}
	inc.probe = func(ctx context.Context) error { return answers.probe(ctx, e) }
	return inc, nil
}

// params are the plugin's parameters, with the device that is chosen for it.
func (s GroupSpec) params() map[string]string {
	if s.Device == "" {
		return s.Params
	}
	p := map[string]string{"device": s.Device}
	maps.Copy(p, s.Params)
	return p
}

// profile chooses how the executable of a backend, "" for the router's, is confined.
func (l *launcher) profile(c *client.Command, backend string) (err error) {
	if l.options.Profiles == nil {
		return nil
	}
	if c.Profile, err = l.options.Profiles(backend, c.Path); err != nil {
		return fmt.Errorf("%w: %w", errNotExecutable, err)
	}
	return nil
}

// start runs the executable of a group, "" for the router's, up to a finished handshake. pins judges it; nil = the host's.
func (l *launcher) start(ctx context.Context, c client.Command, name, group string, pins Pins) (*client.Process, error) {
	c.RuntimeDir, c.Identity, c.Transport = l.runtimeDir, l.identity, l.options.Transport
	c.StartTimeout, c.Confinement = l.options.StartTimeout, l.fleet.confinement
	if pins == nil {
		pins = l.options.Pins
	}
	if pins != nil {
		c.Confinement = c.Confinement.Checking(func(path, digest string) error { return pins(group, path, digest) })
	}
	c.Log = pluginLog(l.options.Log.With("process", name))
	proc, err := client.Start(ctx, c)
	if err == nil {
		l.looked.Do(func() { l.tellOfGaps(proc.Confined()) })
		return proc, nil
	}
	if why := (*client.StartError)(nil); errors.As(err, &why) {
		switch why.Reason {
		case client.ReasonMissing, client.ReasonNotExecutable, client.ReasonNotOurs, client.ReasonProtocol, client.ReasonKind, client.ReasonUntrusted:
			return nil, fmt.Errorf("%w: %w", errNotExecutable, err)
		case client.ReasonExited:
			if code := why.Death.ExitCode; code == exitNoBackend || code == exitNoLibrary {
				return nil, fmt.Errorf("%w: %w", errNoBackend, err)
			}
		}
	}
	return nil, fmt.Errorf("%w: %w", errHandshake, err)
}

// The exit codes with which a plugin says that what it computes with is not here: EX_CONFIG of sysexits.h, and that of a loader
// that lacks a library, such as a GPU's driver.
const (
	exitNoBackend = 78
	exitNoLibrary = 127
)

// child is a plugin's process as its supervisor sees it.
type child struct{ *client.Process }

// Stopped implements process.
func (c child) Stopped() bool { return stoppedState(c.PID()) }

// AtWork implements process.
func (c child) AtWork() bool { return atWork(c.PID()) }

// tellOfGaps logs once which measures this system does not give: all processes are started alike.
func (l *launcher) tellOfGaps(measures []client.Measure) {
	if l.options.Confinement.Off {
		return // has been said
	}
	for _, m := range measures {
		if !m.Applied && m.Name != client.MeasureCgroup { // most systems do not give one; pimoe experts show tells
			l.options.Log.Warn("plugins are confined without a measure", "measure", m.Name, "why", m.Detail)
		}
	}
}

// abandon ends a process that must not serve, and passes the reason on with the process's last words.
func (l *launcher) abandon(inc *incarnation, cause error) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	if inc.proc.Ending() { // how it ends says more than what it has failed at
		select {
		case <-inc.proc.Exited():
			cause = fmt.Errorf("%w (the process %s)", cause, deathOf(inc.proc.Death()).describe())
		case <-ctx.Done():
		}
	}
	inc.proc.Kill()
	if err := inc.proc.Stop(ctx); err != nil {
		return errors.Join(cause, err)
	}
	return cause
}

// environment is what plugins are given: of the host's own the instruction set that all processes are held to, how many
// cores may be used (at most that many, if not 0), which a confined process can't find out, and a setting of Go's runtime. Its watcher takes a lane that waits for a call for a goroutine that runs too long, and would
// send it a signal every 10 ms; in dozens of processes that is a good part of a core.
func environment(most int) []string {
	cores := runtime.GOMAXPROCS(0)
	if most > 0 {
		cores = min(cores, most)
	}
	env := []string{"GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=" + strconv.Itoa(cores)}
	if v := os.Getenv(isa.Env); v != "" {
		env = append(env, isa.Env+"="+v)
	}
	return env
}
