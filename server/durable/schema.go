package durable

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"go.etcd.io/bbolt"

	"github.com/pimoe/pimoe/sdk"
)

// The bucket that is about the file itself. Its records are not sealed: they say nothing of anybody.
var (
	schemaBucket = []byte("schema")
	sealedBy     = []byte("sealed by")   // id of the key that seals every record; empty = none is sealed
	versionOf    = []byte("version of ") // and a part's name: its version
)

// prepare brings a file up to date: in one transaction the schema, then the seals.
func prepare(b *bbolt.DB, o Options) error {
	if err := b.Update(func(tx *bbolt.Tx) error { return migrate(&Tx{tx, o.Box}, o.Parts) }); err != nil {
		return err
	}
	return reseal(b, o)
}

// migrate refuses what a newer version has written before it changes anything.
func migrate(t *Tx, parts []Part) error {
	schema, err := t.tx.CreateBucketIfNotExists(schemaBucket)
	if err != nil {
		return err
	}
	versions := map[string]int{}
	c := schema.Cursor()
	for k, v := c.Seek(versionOf); k != nil && bytes.HasPrefix(k, versionOf); k, v = c.Next() {
		name := string(k[len(versionOf):])
		n, err := strconv.Atoi(string(v))
		if err != nil || n < 0 {
			return fmt.Errorf("the version of %s is %q: the file is damaged: %w", name, v, sdk.ErrInvalid)
		}
		versions[name] = n
	}
	for name, version := range versions {
		i := slices.IndexFunc(parts, func(p Part) bool { return p.Name == name })
		if i < 0 || version > len(parts[i].Migrations) {
			return fmt.Errorf("a newer PiMoE has written it (schema of %s is version %d): start that version again, or name another file by state.file; nothing was changed: %w", name, version, sdk.ErrUnsupported)
		}
	}
	for _, p := range parts {
		for v := versions[p.Name]; v < len(p.Migrations); v++ {
			if err := p.Migrations[v](t); err != nil {
				return fmt.Errorf("migrate %s from version %d: %w", p.Name, v, err)
			}
		}
		if err := schema.Put(append(bytes.Clone(versionOf), p.Name...), []byte(strconv.Itoa(len(p.Migrations)))); err != nil {
			return err
		}
	}
	return nil
}

// resealChunk bounds what one transaction rewrites: bbolt keeps its changed pages in memory until it commits.
const resealChunk = 16 << 20

// reseal seals again what another key than the first one has sealed, or none. It may be stopped anywhere: the key is noted
// only after the last record, and the next start begins again.
func reseal(b *bbolt.DB, o Options) error {
	now, before := o.Box.KeyID(), ""
	if err := b.View(func(tx *bbolt.Tx) error {
		before = string(tx.Bucket(schemaBucket).Get(sealedBy))
		return nil
	}); err != nil || now == before {
		return err
	}
	count := 0
	for _, p := range o.Parts {
		for _, bucket := range p.Buckets {
			for from := []byte(nil); ; {
				err := b.Update(func(tx *bbolt.Tx) (err error) {
					var n int
					from, n, err = resealSome(&Tx{tx, o.Box}, bucket, from, before == "")
					count += n
					return err
				})
				if err != nil {
					return err
				}
				if from == nil {
					break
				}
			}
		}
	}
	if count > 0 {
		o.Log.Info("records sealed again", "records", count, "key", now)
	}
	return b.Update(func(tx *bbolt.Tx) error { return tx.Bucket(schemaBucket).Put(sealedBy, []byte(now)) })
}

// resealSome seals a chunk of a bucket's records from a key on, and tells with which key to go on; nil = there are no more.
// Records that were never sealed are taken only where the file has none that are.
func resealSome(t *Tx, bucket string, from []byte, plain bool) (next []byte, count int, err error) {
	type record struct{ key, sealed []byte }
	var changed []record
	size := 0
	c := t.bucket(bucket).Cursor()
	k, v := c.Seek(from)
	for ; k != nil && size < resealChunk; k, v = c.Next() {
		if !plain {
			if _, err := t.open(bucket, k, v); err != nil {
				return nil, 0, err
			}
		}
		sealed, did, err := t.box.Reseal(bucket, k, v)
		if err != nil {
			return nil, 0, fmt.Errorf("record %q of the database: %w", k, err)
		}
		size += len(v)
		if did {
			changed = append(changed, record{bytes.Clone(k), sealed})
		}
	}
	next = bytes.Clone(k)
	for _, r := range changed { // not while the cursor is under way
		if err := t.bucket(bucket).Put(r.key, r.sealed); err != nil {
			return nil, 0, err
		}
	}
	return next, len(changed), nil
}
