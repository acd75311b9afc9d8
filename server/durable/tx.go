package durable

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/pimoe/pimoe/server/seal"
)

// Tx is a transaction. Records are sealed for their bucket and key: one that is moved does not open.
type Tx struct {
	tx  *bbolt.Tx
	box *seal.Box
}

// bucket is one of the part's own; a name that the schema does not have is a mistake of the program.
func (t *Tx) bucket(name string) *bbolt.Bucket {
	b := t.tx.Bucket([]byte(name))
	if b == nil {
		panic("durable: no bucket " + name)
	}
	return b
}

// Make adds a bucket; of migrations.
func (t *Tx) Make(name string) error {
	_, err := t.tx.CreateBucketIfNotExists([]byte(name))
	return err
}

// Get is a record, nil where there is none. The memory is the caller's.
func (t *Tx) Get(bucket string, key []byte) ([]byte, error) {
	sealed := t.bucket(bucket).Get(key)
	if sealed == nil {
		return nil, nil
	}
	return t.open(bucket, key, sealed)
}

// Put writes a record.
func (t *Tx) Put(bucket string, key, record []byte) error {
	if err := t.bucket(bucket).Put(key, t.box.Seal(bucket, key, record)); err != nil {
		return fmt.Errorf("put %s: %w", bucket, err)
	}
	return nil
}

// Delete removes a record, if it is there.
func (t *Tx) Delete(bucket string, key []byte) error { return t.bucket(bucket).Delete(key) }

// Each calls f for the records whose keys begin with prefix, in the order of keys, until f says that it has enough. key is
// valid during the call only.
func (t *Tx) Each(bucket string, prefix []byte, f func(key, record []byte) (more bool, err error)) error {
	c := t.bucket(bucket).Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if more, err := t.visit(bucket, k, v, f); err != nil || !more {
			return err
		}
	}
	return nil
}

// EachBefore is Each backwards, from the last key below before.
func (t *Tx) EachBefore(bucket string, prefix, before []byte, f func(key, record []byte) (more bool, err error)) error {
	c := t.bucket(bucket).Cursor()
	k, v := c.Seek(before)
	if k == nil {
		k, v = c.Last()
	}
	for k != nil && bytes.Compare(k, before) >= 0 {
		k, v = c.Prev()
	}
	for ; k != nil && bytes.HasPrefix(k, prefix); k, v = c.Prev() {
		if more, err := t.visit(bucket, k, v, f); err != nil || !more {
			return err
		}
	}
	return nil
}

func (t *Tx) visit(bucket string, key, sealed []byte, f func(key, record []byte) (bool, error)) (bool, error) {
	record, err := t.open(bucket, key, sealed)
	if err != nil {
		return false, err
	}
	return f(key, record)
}

func (t *Tx) open(bucket string, key, sealed []byte) ([]byte, error) {
	record, err := t.box.Open(bucket, key, sealed)
	if err != nil {
		return nil, fmt.Errorf("record %q of the database: %w", key, err)
	}
	return record, nil
}
