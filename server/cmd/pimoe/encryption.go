package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/seal"
)

func (a *app) encryption() *cobra.Command {
	return group("encryption", "Keys that seal records at rest: make, rotate, list and forget them",
		a.newSealKey(), a.rotateSealKey(), a.listSealKeys(), a.forgetSealKey())
}

// sealKeyFile is the file that the configuration names.
func (a *app) sealKeyFile(c *cobra.Command) (string, error) {
	cfg, err := a.load(c, quiet)
	if err != nil {
		return "", err
	}
	if cfg.Encryption.KeyFile == "" {
		return "", usageError{errors.New("encryption.key_file is not set: name a file, best on another disk than home")}
	}
	return cfg.Encryption.KeyFile, nil
}

// sealKey is one key as it is printed: the key itself never is.
type sealKey struct {
	ID    string `json:"id"`
	Seals bool   `json:"seals"` // new records; all keys open
}

func (a *app) newSealKey() *cobra.Command {
	var show bool
	c := &cobra.Command{
		Use: "new-key", Short: "Make the key file that encryption.key_file names, with a first key", Args: cobra.NoArgs,
		Long: `Make the key file that encryption.key_file names, with a first key. Keep a copy elsewhere: without the key
nobody can read what it has sealed. --print shows a line for a key file instead and writes nothing, for whoever keeps
secrets in a manager of their own.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if show {
				_, err := fmt.Fprintln(a.out, seal.NewLine())
				return err
			}
			path, err := a.sealKeyFile(c)
			if err != nil {
				return err
			}
			if _, err := seal.Create(path); err != nil {
				return err
			}
			return a.printSealKeys(path)
		},
	}
	c.Flags().BoolVar(&show, "print", false, "print a new line for a key file and write nothing")
	return c
}

func (a *app) rotateSealKey() *cobra.Command {
	return &cobra.Command{
		Use: "rotate", Short: "Put a new key before those of the file; it seals, all of them open", Args: cobra.NoArgs,
		Long: `Put a new key before those of the file. A host takes it at its next start or hand-over (pimoe serve --take-over),
and then seals again what the older keys have sealed; afterwards these can be forgotten.`,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := a.sealKeyFile(c)
			if err != nil {
				return err
			}
			if _, err := seal.Rotate(path); err != nil {
				return err
			}
			return a.printSealKeys(path)
		},
	}
}

func (a *app) listSealKeys() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the ids of the keys; the first one seals", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := a.sealKeyFile(c)
			if err != nil {
				return err
			}
			return a.printSealKeys(path)
		},
	}
}

func (a *app) forgetSealKey() *cobra.Command {
	return &cobra.Command{
		Use: "forget ID", Short: "Take an old key out of the file; what it alone has sealed is lost", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := a.sealKeyFile(c)
			if err != nil {
				return err
			}
			if err := seal.Forget(path, args[0]); err != nil {
				return err
			}
			return a.printSealKeys(path)
		},
	}
}

func (a *app) printSealKeys(path string) error {
	ids, err := seal.IDs(path)
	if err != nil {
		return err
	}
	list, rows := make([]sealKey, len(ids)), make([][]string, len(ids))
	for i, id := range ids {
		list[i] = sealKey{id, i == 0}
		rows[i] = []string{id, map[bool]string{true: "seals and opens", false: "opens"}[i == 0]}
	}
	if a.output == "json" {
		return table.JSON(a.out, list)
	}
	return table.Write(a.out, []string{"ID", "USE"}, rows)
}
