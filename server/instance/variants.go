package instance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/int8"
	"github.com/pimoe/pimoe/backends/ref"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// backend is one of the project's own backends; false for a name that only a plugin bears.
func backend(name string) (backends.Backend, bool) {
	switch name {
	case "cpu":
		return cpu.New(), true
	case "int8":
		return int8.New(), true
	case "ref":
		return ref.New(), true
	}
	return nil, false
}

// packer gives the packed variants of a model that a configuration computes with, and makes those that the store lacks.
type packer struct {
	store    *weights.Store
	stored   *weights.Model
	shape    *model.Config
	threads  int
	progress func(done, total int64)
	notes    []string
	ready    map[string]*weights.Variant    // by name; nil = can't be made here
	asked    map[[2]string]*weights.Variant // of the experts, by backend and class
}

func newPacker(c config.Config, stored *weights.Model, shape *model.Config, progress func(done, total int64)) (*packer, error) {
	store, err := weights.OpenStore(c.Home)
	if err != nil {
		return nil, err
	}
	return &packer{store: store, stored: stored, shape: shape, threads: Threads(c), progress: progress, ready: map[string]*weights.Variant{}, asked: map[[2]string]*weights.Variant{}}, nil
}

// layout is the packing that a backend takes in place for weights of a storage type.
func layout(be backends.Backend, class string) func(tensor.DType) (string, error) {
	return func(d tensor.DType) (string, error) {
		c, err := be.Class(d, class)
		if err != nil {
			return "", err
		}
		return be.Packing(c), nil
	}
}

// experts is the variant of the expert shards for a backend and a class; nil where row-major ones serve.
func (p *packer) experts(ctx context.Context, be backends.Backend, class string) (*weights.Variant, error) {
	key := [2]string{be.Name(), class}
	if v, ok := p.asked[key]; ok {
		return v, nil
	}
	packing, files := layout(be, class), map[string][]weights.Packed{}
	for e := range p.stored.Manifest.Experts {
		file := weights.ExpertFile(e)
		extents, err := p.stored.Extents(file)
		if err != nil {
			return nil, err
		}
		for _, l := range p.shape.SparseLayers() {
			for _, which := range []string{"gate", "up", "down"} {
				name := fmt.Sprintf("layers.%d.%s", l, which)
				t := weights.Packed{Name: name, Source: name}
				if t.Packing, err = packing(extents[name].DType); err != nil {
					return nil, fmt.Errorf("%s: tensor %s: %w", file, name, err)
				}
				files[file] = append(files[file], t)
			}
		}
	}
	v, err := p.variant(ctx, "experts", files)
	if err == nil {
		p.asked[key] = v
	}
	return v, err
}

// trunk is the same for the trunk.
func (p *packer) trunk(ctx context.Context, be backends.Backend, class string) (*weights.Variant, error) {
	extents, err := p.stored.Extents(weights.TrunkFile)
	if err != nil {
		return nil, err
	}
	list, err := p.shape.PackedTrunk(extents, layout(be, class))
	if err != nil {
		return nil, err
	}
	return p.variant(ctx, "trunk", map[string][]weights.Packed{weights.TrunkFile: list})
}

// variant finds or makes a variant. Where the store has no room or can't be written, the weights serve as they are: each
// process then packs its own copy, which costs time and memory, not answers.
func (p *packer) variant(ctx context.Context, part string, files map[string][]weights.Packed) (*weights.Variant, error) {
	packings := weights.Recipe{Files: files}.Packings()
	if len(packings) == 0 {
		return nil, nil
	}
	r := weights.Recipe{Name: part + "-" + strings.Join(packings, "-"), Files: files}
	if v, ok := p.ready[r.Name]; ok {
		return v, nil
	}
	v, err := p.store.Pack(ctx, p.stored, r, p.threads, p.progress)
	if errors.Is(err, sdk.ErrUnavailable) && ctx.Err() == nil {
		p.notes = append(p.notes, fmt.Sprintf("%v; the weights are packed in memory instead, by every process for itself", err))
		v, err = nil, nil
	}
	if err == nil {
		p.ready[r.Name] = v
	}
	return v, err
}

// Pack makes, ahead of time, the packed variants that a configuration computes with, and returns them: those of all its
// backends that belong to the project. progress is called with the bytes of one variant after the other.
func Pack(ctx context.Context, c config.Config, stored *weights.Model, progress func(done, total int64)) ([]*weights.Variant, error) {
	shape, err := model.ReadConfig(stored.Dir)
	if err != nil {
		return nil, err
	}
	p, err := newPacker(c, stored, shape, progress)
	if err != nil {
		return nil, err
	}
	plans, _, err := c.Groups(shape.SparseLayers(), shape.Experts)
	if err != nil {
		return nil, err
	}
	if _, plans, err = remediesOf(c, plans); err != nil {
		return nil, err
	}
	for _, plan := range plans {
		if _, err := p.group(ctx, plan); err != nil {
			return nil, err
		}
	}
	if _, _, err := p.trunkOf(ctx, c.Trunk); err != nil {
		return nil, err
	}
	var list []*weights.Variant
	for _, v := range p.ready {
		if v != nil {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b *weights.Variant) int { return strings.Compare(a.Name, b.Name) })
	if len(p.notes) > 0 {
		return list, fmt.Errorf("%s: %w", strings.Join(p.notes, "; "), sdk.ErrUnavailable)
	}
	return list, nil
}

// group is the variant for an expert group. A plugin that is no part of the project gets the weights as they are.
func (p *packer) group(ctx context.Context, plan config.GroupPlan) (*weights.Variant, error) {
	be, ours := backend(plan.Backend)
	if !ours || plan.Remote != nil { // what runs elsewhere has its own
		return nil, nil
	}
	v, err := p.experts(ctx, be, plan.Precision)
	if errors.Is(err, sdk.ErrUnsupported) {
		if plan.Plugin != "" {
			return nil, nil // what stands there may compute in a class of its own
		}
		return nil, fmt.Errorf("expert group %s: backend %s, precision %s: %w", plan.Name, plan.Backend, plan.Precision, err)
	}
	return v, err
}

// trunkOf is the trunk's backend and variant.
func (p *packer) trunkOf(ctx context.Context, c config.Trunk) (backends.Backend, *weights.Variant, error) {
	be, ours := backend(c.Backend)
	if !ours {
		return nil, nil, fmt.Errorf("trunk.backend %q is no part of this program: %w", c.Backend, sdk.ErrUnsupported)
	}
	v, err := p.trunk(ctx, be, c.Precision)
	if errors.Is(err, sdk.ErrUnsupported) {
		err = fmt.Errorf("trunk: backend %s, precision %s: %w", c.Backend, c.Precision, err)
	}
	return be, v, err
}
