package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
)

// packedVariant is the JSON form of one packed variant of a model.
type packedVariant struct {
	Model    string   `json:"model"`
	Name     string   `json:"name"`
	Packings []string `json:"packings"`
	Bytes    int64    `json:"bytes"`
	Folder   string   `json:"folder"`
}

func (a *app) quantize() *cobra.Command {
	var class string
	c := &cobra.Command{
		Use:   "quantize [flags] NAME",
		Short: "Pack a model's weights for a numeric class ahead of time",
		Long: `Pack the weights of a model in the store for a numeric class, experts and trunk: int8g32 rounds them to
8-bit integers in groups of 32, the other classes keep every value and only change the layout. A start
does the same when it finds no packed weights; this command does it when there is time. What is packed
lies beside the originals and goes with them; a second run finds it done.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			backend := "cpu"
			if class == "int8g32" {
				backend = "int8"
			}
			cfg, err := a.load(c, quiet, config.Setting{Key: "experts.backend", Value: backend}, config.Setting{Key: "experts.precision", Value: class},
				config.Setting{Key: "trunk.backend", Value: backend}, config.Setting{Key: "trunk.precision", Value: class},
				config.Setting{Key: "model", Value: args[0]})
			if err != nil {
				return err
			}
			bar := progress.New(a.err, a.errTTY, "pack "+args[0])
			defer bar.Done()
			stored, err := instance.OpenModel(c.Context(), cfg, bar.Bytes)
			if err != nil {
				return err
			}
			variants, err := instance.Pack(c.Context(), cfg, stored, bar.Bytes)
			bar.Done()
			if err != nil {
				return fmt.Errorf("quantize %s to %s: %w", args[0], class, err)
			}
			list := make([]packedVariant, len(variants))
			for i, v := range variants {
				list[i] = packedVariant{Model: stored.Name, Name: v.Name, Packings: v.Packings, Bytes: v.Bytes, Folder: v.Dir}
			}
			return a.printVariants(list)
		},
	}
	c.Flags().StringVar(&class, "class", "int8g32", "numeric `class`: int8g32, bf16, or auto for the checkpoint's own precision")
	return c
}

func (a *app) printVariants(list []packedVariant) error {
	if a.output == "json" {
		return table.JSON(a.out, list)
	}
	rows := make([][]string, len(list))
	for i, v := range list {
		rows[i] = []string{v.Model, v.Name, progress.Size(v.Bytes), v.Folder}
	}
	return table.Write(a.out, []string{"MODEL", "VARIANT", "SIZE", "FOLDER"}, rows)
}
