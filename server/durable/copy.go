package durable

import (
	"context"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/pimoe/pimoe/sdk"
)

// WriteTo writes a copy of the database as it is at one moment, while transactions go on. Records stay sealed.
func (d *DB) WriteTo(ctx context.Context, w io.Writer) error {
	return d.with(ctx, func(b *bbolt.DB) error { return writeTo(b, w) })
}

func writeTo(b *bbolt.DB, w io.Writer) error {
	return b.View(func(tx *bbolt.Tx) error {
		if _, err := tx.WriteTo(w); err != nil {
			return fmt.Errorf("copy database: %w", err)
		}
		return nil
	})
}

// Copy is WriteTo of a file that no host has. It changes nothing in it; a file that a host has is ErrElsewhere.
func Copy(path string, w io.Writer) error {
	b, err := openToRead(path)
	if err != nil {
		return err
	}
	return errors.Join(writeTo(b, w), b.Close())
}

// Check says whether Open would take a file: it is whole, and no newer version has written it. It changes nothing in it.
func Check(path string, parts []Part) error {
	b, err := openToRead(path)
	if err != nil {
		return err
	}
	err = b.View(func(tx *bbolt.Tx) error {
		schema := tx.Bucket(schemaBucket)
		if schema == nil {
			return fmt.Errorf("check database %s: it is another program's: %w", path, sdk.ErrInvalid)
		}
		if _, err := versionsOf(schema, parts); err != nil {
			return fmt.Errorf("check database %s: %w", path, err)
		}
		var damaged []error
		for err := range tx.Check() {
			damaged = append(damaged, err)
		}
		if len(damaged) > 0 {
			return fmt.Errorf("check database %s: it is damaged: %w: %w", path, damaged[0], sdk.ErrInvalid)
		}
		return nil
	})
	return errors.Join(err, b.Close())
}

func openToRead(path string) (*bbolt.DB, error) {
	o := boltOptions()
	o.ReadOnly = true
	b, err := bbolt.Open(path, 0o600, o)
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, ErrElsewhere
	}
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return b, nil
}
