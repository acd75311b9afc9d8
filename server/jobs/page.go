package jobs

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"

	"github.com/google/uuid"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/durable"
)

// MaxPage is the most jobs of one page: some hundred kilobytes of JSON.
const MaxPage = 100

// maxLook bounds how many jobs one page looks at where a filter leaves few of them.
const maxLook = 1000

// List is a page of a tenant's jobs, the newest first: at most limit, of one state unless that is empty, from where cursor
// says. next leads to the following page and is empty on the last one. Jobs that are made or removed meanwhile do not shift
// the pages.
func (j *Jobs) List(ctx context.Context, tenant string, state State, limit int, cursor string) (page []Job, next string, err error) {
	if err := j.ready(ctx); err != nil {
		return nil, "", err
	}
	before := append([]byte(tenant), 1) // behind all of the tenant's keys
	if cursor != "" {
		id, err := parseCursor(cursor)
		if err != nil {
			return nil, "", err
		}
		before = key(tenant, id)
	}
	err = j.DB.View(ctx, func(tx *durable.Tx) error {
		looked := 0
		return tx.EachBefore(jobBucket, prefix(tenant), before, func(at, record []byte) (bool, error) {
			if len(page) == limit || looked == maxLook { // there is one more
				next = cursorOf(before)
				return false, nil
			}
			looked++
			before = bytes.Clone(at)
			job, err := parseJob(record)
			if err == nil && (state == "" || job.State == state) {
				page = append(page, job)
			}
			return true, err
		})
	})
	return page, next, err
}

// cursorVersion is the first byte of a cursor: those of another version are refused, not misread.
const cursorVersion = 1

// cursorOf is the place behind the job with this key.
func cursorOf(at []byte) string {
	id := at[len(at)-len(uuid.UUID{}):]
	return base64.RawURLEncoding.EncodeToString(append([]byte{cursorVersion}, id...))
}

// parseCursor reads what cursorOf writes. It names no tenant: it leads nowhere but to the caller's own jobs.
func parseCursor(text string) (uuid.UUID, error) {
	if b := decode(text, 1+len(uuid.UUID{})); b != nil && b[0] == cursorVersion {
		return uuid.UUID(b[1:]), nil
	}
	return uuid.UUID{}, fmt.Errorf("cursor: want the next_cursor of a page before: %w", sdk.ErrInvalid)
}
