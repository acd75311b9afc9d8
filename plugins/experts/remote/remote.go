// Package remote is the command `serve` of the expert programs: it opens a model in this machine's own store, checks each
// shard against the manifest, loads the units that it was told to, and serves them to hosts on other machines.
//
// The programs pimoe-expert-NAME call Main when their first argument is serve; without it they are plugins that a host
// starts. Weights never cross the network. The package refuses an address beyond loopback without certificates of both ends.
package remote

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/serve"
)

// Wanted reports whether a program was called to serve other machines.
func Wanted(args []string) bool { return len(args) > 1 && args[1] == "serve" }

// defaultModel is the one that a host puts into its store by itself.
const defaultModel = "pimoe-tiny"

// options are the command's flags.
type options struct {
	listen, health           string
	store, model             string
	units, precision, zone   string
	tls                      serve.TLSFiles
	maxCalls, maxConnections int
	connectionAge, drain     time.Duration
	stdout, stderr           io.Writer
}

// Main runs the command and returns the program's exit status: 0 after SIGTERM or SIGINT, 2 for wrong flags, 1 else.
func Main(args []string, e expert.Expert) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return run(ctx, args, e, os.Stdout, os.Stderr)
}

// run is Main with everything that it touches as an argument.
func run(ctx context.Context, args []string, e expert.Expert, stdout, stderr io.Writer) int {
	name := filepath.Base(args[0])
	o := options{stdout: stdout, stderr: stderr}
	flags := flag.NewFlagSet(name+" serve", flag.ContinueOnError)
	flags.SetOutput(stderr)
	o.define(flags)
	err := flags.Parse(args[2:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "%s serve: %q: want flags only\n", name, flags.Arg(0))
		return 2
	}
	if err := o.serve(ctx, e); err != nil {
		fmt.Fprintf(stderr, "%s serve: %v\n", name, err)
		return 1
	}
	return 0
}

func (o *options) define(f *flag.FlagSet) {
	f.StringVar(&o.listen, "listen", "127.0.0.1:7070", "`ADDRESS` to listen on; beyond loopback the three -tls flags are needed")
	f.StringVar(&o.health, "health", "", "`ADDRESS` of gRPC's health service alone, without TLS, for probes; empty for none")
	f.StringVar(&o.store, "store", defaultStore(), "`FOLDER` of the store with the model, as PIMOE_HOME is for a host")
	f.StringVar(&o.model, "model", defaultModel, "`NAME` of the model in the store")
	f.StringVar(&o.units, "units", "all", "`UNITS` to serve: all, or LAYERS:EXPERTS with several behind semicolons, such as 'all:0-3' or '0-5:0,1;6-11:2'")
	f.StringVar(&o.precision, "precision", "auto", "numeric `CLASS`; auto is the backend's own for the dtype of the weights")
	f.StringVar(&o.zone, "zone", os.Getenv("PIMOE_ZONE"), "`ZONE` that this machine is in; hosts prefer their own. Default: PIMOE_ZONE")
	f.StringVar(&o.tls.Cert, "tls-cert", "", "PEM `FILE` with this end's certificate; a renewed one is taken over")
	f.StringVar(&o.tls.Key, "tls-key", "", "PEM `FILE` with its key")
	f.StringVar(&o.tls.CA, "tls-ca", "", "PEM `FILE` with the authorities of the hosts' certificates")
	f.IntVar(&o.maxCalls, "max-calls", 0, "calls that are computed at once; 0 for four a core")
	f.IntVar(&o.maxConnections, "max-connections", 0, "connections of all hosts; 0 for 256")
	f.DurationVar(&o.connectionAge, "connection-age", 0, "after which a host is asked to connect anew; 0 for an hour")
	f.DurationVar(&o.drain, "drain", 0, "how long running calls may take after SIGTERM; 0 for 30 s")
}

// defaultStore is the store that a host uses where nothing else is said.
func defaultStore() string {
	if dir := os.Getenv("PIMOE_HOME"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "pimoe")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".local", "share", "pimoe")
}

// serve loads and serves until ctx ends. It listens last: whoever can connect gets answers.
func (o *options) serve(ctx context.Context, e expert.Expert) (err error) {
	log := slog.New(slog.NewJSONHandler(o.stderr, nil))
	d, files, err := o.load(ctx, e)
	defer func() {
		err = errors.Join(err, e.Close())
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	var probes net.Listener
	if o.health != "" {
		if probes, err = net.Listen("tcp", o.health); err != nil {
			l.Close()
			return fmt.Errorf("-health: %w", err)
		}
	}
	fmt.Fprintf(o.stdout, "listening on %s\n", l.Addr())
	if probes != nil {
		fmt.Fprintf(o.stdout, "health on %s\n", probes.Addr())
	}
	log.Info("serving experts", "model", d.Model, "digest", d.ModelDigest, "class", d.Info.NumericClass, "units", len(d.Units), "zone", d.Zone, "address", l.Addr().String(), "tls", o.tls.On())
	return serve.Remote(ctx, e, serve.RemoteOptions{
		Listener: l, Health: probes, TLS: o.tls, Description: d, MaxCalls: o.maxCalls, MaxConnections: o.maxConnections,
		ConnectionAge: o.connectionAge, DrainFor: o.drain, Log: log,
	})
}

// load opens the model, checks the shards of the units and loads them. The files stay open as long as the expert computes.
func (o *options) load(ctx context.Context, e expert.Expert) (d expert.Description, files []*weights.File, err error) {
	store, err := weights.OpenStore(o.store)
	if err != nil {
		return d, nil, err
	}
	m, err := store.Find(o.model)
	if err != nil {
		return d, nil, err
	}
	d = expert.Description{Model: m.Name, ModelDigest: m.Digest(), Shards: map[int]string{}, Zone: o.zone}
	if d.Activation, err = activation(m.Dir); err != nil {
		return d, nil, err
	}
	if d.Program, err = program(); err != nil {
		return d, nil, err
	}
	if d.Units, err = o.chosen(m); err != nil {
		return d, nil, err
	}
	spec := expert.Spec{Activation: d.Activation, NumericClass: o.precision}
	open := map[int]*weights.File{}
	for _, u := range d.Units {
		f := open[u.Expert]
		if f == nil {
			name := weights.ExpertFile(u.Expert)
			if f, err = openShard(ctx, m, name); err != nil {
				return d, files, err
			}
			open[u.Expert], files = f, append(files, f)
			d.Shards[u.Expert] = m.Manifest.Files[name].SHA256
		}
		w, err := unit(f, u)
		if err != nil {
			return d, files, fmt.Errorf("%s: %w", m.ExpertPath(u.Expert), err)
		}
		spec.Units = append(spec.Units, w)
	}
	gate := spec.Units[0].Gate.Shape
	if len(gate) != 2 {
		return d, files, fmt.Errorf("layer %d expert %d: gate of shape %v: %w", d.Units[0].Layer, d.Units[0].Expert, gate, sdk.ErrInvalid)
	}
	spec.Intermediate, spec.Hidden = gate[0], gate[1]
	if err := e.Load(ctx, spec); err != nil {
		return d, files, err
	}
	d.Hidden, d.Intermediate, d.Info = spec.Hidden, spec.Intermediate, e.Info()
	return d, files, nil
}

// openShard maps a file of the model after its digest was checked.
func openShard(ctx context.Context, m *weights.Model, name string) (*weights.File, error) {
	f, err := m.Shards().Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return weights.OpenFile(f, f.Name())
}

// unit is a unit's weights out of its shard.
func unit(f *weights.File, u expert.Unit) (expert.UnitWeights, error) {
	w := expert.UnitWeights{Unit: u}
	for i, part := range []string{"gate", "up", "down"} {
		name := fmt.Sprintf("layers.%d.%s", u.Layer, part)
		v, ok := f.Tensor(name)
		if !ok {
			return w, fmt.Errorf("tensor %s is missing: %w", name, sdk.ErrInvalid)
		}
		switch i {
		case 0:
			w.Gate = v
		case 1:
			w.Up = v
		case 2:
			w.Down = v
		}
	}
	return w, nil
}

// chosen are the units of -units, by layer and expert.
func (o *options) chosen(m *weights.Model) ([]expert.Unit, error) {
	layers, err := layersOf(m)
	if err != nil {
		return nil, err
	}
	units, err := parseUnits(o.units, layers, m.Manifest.Experts)
	if err != nil {
		return nil, fmt.Errorf("-units: %w", err)
	}
	return units, nil
}

// layersOf are the layers with routed experts, by the tensors of the first expert's shard.
func layersOf(m *weights.Model) ([]int, error) {
	if m.Manifest.Experts == 0 {
		return nil, fmt.Errorf("model %s has no routed experts: %w", m.Name, sdk.ErrUnsupported)
	}
	extents, err := m.Extents(weights.ExpertFile(0))
	if err != nil {
		return nil, err
	}
	var layers []int
	for name := range extents {
		var l int
		if n, err := fmt.Sscanf(name, "layers.%d.gate", &l); err == nil && n == 1 && name == fmt.Sprintf("layers.%d.gate", l) {
			layers = append(layers, l)
		}
	}
	slices.Sort(layers)
	return layers, nil
}

// program is the digest of the running executable.
func program() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("own executable: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("own executable: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("own executable: %w", err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
