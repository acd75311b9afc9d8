package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/shapes"
)

// shapeSeed draws the weights of every random model, so that figures of different days are of the same model.
const shapeSeed = 1

// useShape makes cfg serve the random model of a shape, which is written into the store once. No shape changes nothing.
func (a *app) useShape(ctx context.Context, cfg *config.Config, text string) error {
	if text == "" {
		return nil
	}
	if cfg.Model != "" {
		return usageError{errors.New("want either a model or --shape")}
	}
	name, shape, err := shapes.Find(text)
	if err != nil {
		return err
	}
	store, err := weights.OpenStore(cfg.Home)
	if err != nil {
		return err
	}
	cfg.Model = shape.ModelName(name, shapeSeed)
	if _, err := store.Find(cfg.Model); err == nil || !errors.Is(err, sdk.ErrNotFound) {
		return err
	}
	return a.makeShape(ctx, store, *cfg, shape)
}

// makeShape writes a checkpoint beside the store's models, for the same disk has room for it, imports it and removes it.
func (a *app) makeShape(ctx context.Context, store *weights.Store, cfg config.Config, shape shapes.Shape) (err error) {
	dir, err := os.MkdirTemp(cfg.Home, ".shape-")
	if err != nil {
		return fmt.Errorf("make shape: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bar := progress.New(a.err, a.errTTY, "make "+cfg.Model)
	err = shapes.Write(ctx, dir, shape, shapeSeed, bar.Bytes)
	bar.Done()
	if err != nil {
		return err
	}
	m, err := model.ReadConfig(dir)
	if err != nil {
		return err
	}
	bar = progress.New(a.err, a.errTTY, "import "+cfg.Model)
	defer bar.Done()
	_, err = store.Import(ctx, cfg.Model, dir, m.Plan, bar.Bytes)
	return err
}
