package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/pimoe/pimoe/core/weights"
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
)

// launcher brings processes up to the point where they may serve.
type launcher struct {
	options    Options
	identity   *client.Identity
	runtimeDir string
	shards     *shardSet
}

// expert starts a process, gives it its weights and asks a question with a known answer. On an error nothing is left.
func (l *launcher) expert(ctx context.Context, name string, spec GroupSpec, answers *knownAnswers) (*incarnation, error) {
	shards, load, err := l.shards.forUnits(ctx, spec.Units)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadShard, err)
	}
	shape := l.options.Experts
	proc, err := l.start(ctx, client.Command{
		Path: spec.Path, Kind: sdk.KindExpert, Shards: shards,
		Plane: client.ExpertPlane(l.options.MaxRows, shape.Hidden, slots),
	}, name)
	if err != nil {
		return nil, err
	}
	inc := &incarnation{proc: proc, expert: proc.Expert(), condemn: make(chan struct{})}
	load.Spec = expert.Spec{
		Hidden: shape.Hidden, Intermediate: shape.Intermediate, Activation: shape.Activation,
		NumericClass: spec.Precision, Params: spec.Params,
	}
	if err := inc.expert.LoadShards(ctx, load); err != nil {
		return nil, l.abandon(inc, fmt.Errorf("%w: %w", errLoad, err))
	}
	inc.info = inc.expert.Info()
	if err := answers.admit(ctx, inc.info, inc.expert); err != nil {
		return nil, l.abandon(inc, fmt.Errorf("%w: %w", errWrongAnswer, err))
	}
	inc.probe = func(ctx context.Context) error { return answers.probe(ctx, inc.expert) }
	return inc, nil
}

// slots is how many calls a process can have under way: the engine's one step at a time, a known-answer test, and room
// for calls on raw hidden states.
const slots = 4

// start runs the executable up to a finished handshake.
func (l *launcher) start(ctx context.Context, c client.Command, name string) (*client.Process, error) {
	c.RuntimeDir, c.Identity, c.Transport = l.runtimeDir, l.identity, l.options.Transport
	c.StartTimeout = l.options.StartTimeout
	c.Log = pluginLog(l.options.Log.With("process", name))
	proc, err := client.Start(ctx, c)
	if err == nil {
		return proc, nil
	}
	if why := (*client.StartError)(nil); errors.As(err, &why) {
		switch why.Reason {
		case client.ReasonMissing, client.ReasonNotExecutable, client.ReasonNotOurs, client.ReasonProtocol, client.ReasonKind:
			return nil, fmt.Errorf("%w: %w", errNotExecutable, err)
		}
	}
	return nil, fmt.Errorf("%w: %w", errHandshake, err)
}

// abandon ends a process that must not serve, and passes the reason on with the process's last words.
func (l *launcher) abandon(inc *incarnation, cause error) error {
	select {
	case <-inc.proc.Exited():
		cause = fmt.Errorf("%w (the process %s)", cause, deathOf(inc.proc.Death()).describe())
	default:
	}
	inc.proc.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	if err := inc.proc.Stop(ctx); err != nil {
		return errors.Join(cause, err)
	}
	return cause
}

// shardSet opens the expert shards for the processes of a host: one descriptor for each start, checked against the
// manifest. The host reads headers and digests; it never maps a shard.
type shardSet struct {
	model *weights.Model
	mu    sync.Mutex // guards what follows
	files map[int]*shard
	old   []*os.File // found damaged, but perhaps being handed to a process just now
}

// shard is one expert's file with the places of its tensors.
type shard struct {
	file    *os.File
	extents map[string]weights.Extent
}

// open returns the expert's shard, opened and checked. The file stays open for restarts until close.
func (s *shardSet) open(ctx context.Context, e int) (*shard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files == nil {
		s.files = map[int]*shard{}
	}
	sh := s.files[e]
	if sh == nil {
		path := s.model.ExpertPath(e)
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("open shard of expert %d: %w", e, err)
		}
		ext, err := weights.Scan(f, path)
		if err != nil {
			f.Close()
			return nil, err
		}
		sh = &shard{file: f, extents: ext}
		s.files[e] = sh
	}
	if err := s.model.Verify(ctx, weights.ExpertFile(e), sh.file); err != nil {
		s.old = append(s.old, sh.file) // the next start opens what then lies at the path
		delete(s.files, e)
		return nil, fmt.Errorf("shard of expert %d: %w", e, err)
	}
	return sh, nil
}

// inUse lists the experts whose shards are open.
func (s *shardSet) inUse() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.files))
}

// recheck hashes an open shard again.
func (s *shardSet) recheck(ctx context.Context, e int) error {
	s.mu.Lock()
	sh := s.files[e]
	s.mu.Unlock()
	if sh == nil {
		return nil
	}
	return s.model.Recheck(ctx, weights.ExpertFile(e), sh.file)
}

func (s *shardSet) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sh := range s.files {
		sh.file.Close()
	}
	for _, f := range s.old {
		f.Close()
	}
	s.files, s.old = nil, nil
}

// unitTensors are the names of a unit's tensors in its shard, in the order gate, up, down.
func unitTensors(u expert.Unit) [3]string {
	p := fmt.Sprintf("layers.%d.", u.Layer)
	return [3]string{p + "gate", p + "up", p + "down"}
}

// forUnits opens the shards that the units need and says where in them each tensor lies.
func (s *shardSet) forUnits(ctx context.Context, units []expert.Unit) ([]*os.File, client.LoadSpec, error) {
	var files []*os.File
	var load client.LoadSpec
	index := map[int]int{}
	for _, u := range units {
		sh, err := s.open(ctx, u.Expert)
		if err != nil {
			return nil, load, err
		}
		at, ok := index[u.Expert]
		if !ok {
			at = len(files)
			index[u.Expert] = at
			files = append(files, sh.file)
		}
		var place [3]client.ShardTensor
		for i, name := range unitTensors(u) {
			e, ok := sh.extents[name]
			if !ok {
				return nil, load, fmt.Errorf("shard of expert %d: tensor %s is missing: %w", u.Expert, name, sdk.ErrInvalid)
			}
			place[i] = client.ShardTensor{Shard: at, Offset: e.Offset, Length: e.Length, DType: e.DType, Shape: e.Shape}
		}
		load.Units = append(load.Units, client.ShardUnit{Unit: u, Gate: place[0], Up: place[1], Down: place[2]})
	}
	return files, load, nil
}
