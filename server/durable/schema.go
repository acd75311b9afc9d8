package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"go.etcd.io/bbolt"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/atomicfile"
)

// The bucket that is about the file itself. Its records are not sealed: they say nothing of anybody.
var (
	schemaBucket = []byte("schema")
	sealedBy     = []byte("sealed by")   // id of the key that seals every record; empty = none is sealed
	versionOf    = []byte("version of ") // and a part's name: its version
)

// prepare brings a file up to date: in one transaction the schema, then the seals. It gives back the database that is open
// afterwards, which may be another one.
func prepare(b *bbolt.DB, o Options) (*bbolt.DB, error) {
	if err := b.Update(func(tx *bbolt.Tx) error { return migrate(&Tx{tx, o.Box}, o.Parts) }); err != nil {
		return b, err
	}
	now, before := o.Box.KeyID(), ""
	if err := b.View(func(tx *bbolt.Tx) error {
		before = string(tx.Bucket(schemaBucket).Get(sealedBy))
		return nil
	}); err != nil || now == before {
		return b, err
	}
	count, err := reseal(b, o, before == "")
	if err != nil {
		return b, err
	}
	if count > 0 {
		o.Log.Info("records sealed again", "records", count, "key", now)
	}
	// Also where nothing was left to seal: a host may have been killed before this.
	return rewrite(b, o.Path, func(b *bbolt.DB) error {
		return b.Update(func(tx *bbolt.Tx) error { return tx.Bucket(schemaBucket).Put(sealedBy, []byte(now)) })
	})
}

// rewrite copies the database into a new file, which takes the old one's place: the old one still has, in pages that are free,
// what was in it before it was sealed. The lock of the new one is held before its name is there, and the old one's until then.
func rewrite(b *bbolt.DB, path string, mark func(*bbolt.DB) error) (*bbolt.DB, error) {
	name := path + ".new"
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a host that was killed
		return b, err
	}
	fresh, err := bbolt.Open(name, 0o600, boltOptions())
	if err != nil {
		return b, err
	}
	if err = bbolt.Compact(fresh, b, resealChunk); err == nil {
		err = mark(fresh)
	}
	if err == nil {
		err = os.Rename(name, path)
	}
	if err != nil {
		return b, errors.Join(fmt.Errorf("rewrite: %w", err), fresh.Close(), os.Remove(name))
	}
	return fresh, errors.Join(b.Close(), atomicfile.SyncFolder(filepath.Dir(path)))
}

// migrate refuses what a newer version has written before it changes anything.
func migrate(t *Tx, parts []Part) error {
	schema, err := t.tx.CreateBucketIfNotExists(schemaBucket)
	if err != nil {
		return err
	}
	versions, err := versionsOf(schema, parts)
	if err != nil {
		return err
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

// versionsOf are the versions of the parts in a file. It refuses those that these parts don't know.
func versionsOf(schema *bbolt.Bucket, parts []Part) (map[string]int, error) {
	versions := map[string]int{}
	c := schema.Cursor()
	for k, v := c.Seek(versionOf); k != nil && bytes.HasPrefix(k, versionOf); k, v = c.Next() {
		name := string(k[len(versionOf):])
		n, err := strconv.Atoi(string(v))
		if err != nil || n < 0 {
			return nil, fmt.Errorf("the version of %s is %q: the file is damaged: %w", name, v, sdk.ErrInvalid)
		}
		versions[name] = n
	}
	for name, version := range versions {
		i := slices.IndexFunc(parts, func(p Part) bool { return p.Name == name })
		if i < 0 || version > len(parts[i].Migrations) {
			return nil, fmt.Errorf("a newer PiMoE has written it (schema of %s is version %d): start that version again, or name another file by state.file; nothing was changed: %w", name, version, sdk.ErrUnsupported)
		}
	}
	return versions, nil
}

// resealChunk bounds what one transaction rewrites: bbolt keeps its changed pages in memory until it commits.
const resealChunk = 16 << 20

// reseal seals again what another key than the first one has sealed, or none, and tells how many records that were. It may be
// stopped anywhere: the key is noted only afterwards, and the next start begins again.
func reseal(b *bbolt.DB, o Options, plain bool) (count int, err error) {
	for _, p := range o.Parts {
		for _, bucket := range p.Buckets {
			for from := []byte(nil); ; {
				if err := b.Update(func(tx *bbolt.Tx) (err error) {
					var n int
					from, n, err = resealSome(&Tx{tx, o.Box}, bucket, from, plain)
					count += n
					return err
				}); err != nil {
					return count, err
				}
				if from == nil {
					break
				}
			}
		}
	}
	return count, nil
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
