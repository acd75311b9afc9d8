package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/instance"
)

// storedModel is the JSON form of one model of the store.
type storedModel struct {
	Name    string    `json:"name"`
	Type    string    `json:"model_type"`
	Experts int       `json:"experts"`
	Bytes   int64     `json:"bytes"`
	Created time.Time `json:"created"`
	Digest  string    `json:"digest"`
}

func describe(m weights.Manifest) storedModel {
	s := storedModel{Name: m.Name, Type: m.ModelType, Experts: m.Experts, Created: m.Created, Digest: (&weights.Model{Manifest: m}).Digest()}
	for _, f := range m.Files {
		s.Bytes += f.Size
	}
	return s
}

func (a *app) printModels(list []storedModel) error {
	if a.output == "json" {
		return table.JSON(a.out, list)
	}
	rows := make([][]string, len(list))
	for i, m := range list {
		rows[i] = []string{m.Name, m.Type, fmt.Sprint(m.Experts), progress.Size(m.Bytes), m.Created.Local().Format(time.DateTime), m.Digest}
	}
	return table.Write(a.out, []string{"NAME", "TYPE", "EXPERTS", "SIZE", "IMPORTED", "DIGEST"}, rows)
}

func (a *app) models() *cobra.Command {
	c := &cobra.Command{
		Use: "models", Short: "List the models in the store", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			store, err := weights.OpenStore(cfg.Home)
			if err != nil {
				return err
			}
			manifests, broken := store.List()
			list := make([]storedModel, len(manifests))
			for i, m := range manifests {
				list[i] = describe(m)
			}
			if err := a.printModels(list); err != nil {
				return err
			}
			return broken
		},
	}
	c.AddCommand(a.quantize())
	return c
}

func (a *app) importCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:   "import [flags] FOLDER",
		Short: "Split a model folder into the store",
		Long: `Split a model folder in Hugging Face's layout into the store: the trunk and one shard for each
expert, with sha256 digests, and packed for the configured backends. It is done once; a second run
finds it done, and one that was cut short goes on where it stopped. "pimoe serve FOLDER" imports by
itself.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := a.load(c, quiet)
			if err != nil {
				return err
			}
			store, err := weights.OpenStore(cfg.Home)
			if err != nil {
				return err
			}
			if name == "" {
				name = weights.NameFor(args[0])
			}
			shape, err := model.ReadConfig(args[0])
			if err != nil {
				return err
			}
			bar := progress.New(a.err, a.errTTY, "import "+name)
			m, err := store.Import(c.Context(), name, args[0], shape.Plan, bar.Bytes)
			if err == nil {
				_, err = instance.Pack(c.Context(), cfg, m, bar.Bytes)
			}
			bar.Done()
			if err != nil {
				return fmt.Errorf("import %s: %w", args[0], err)
			}
			return a.printModels([]storedModel{describe(m.Manifest)})
		},
	}
	c.Flags().StringVar(&name, "name", "", "`name` in the store; default: the folder's")
	return c
}
