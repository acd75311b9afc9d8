package jobs

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/durable"
)

// State is where a job is on its way.
type State string

// The states. Queued and Running jobs go on after a restart; the others never change again.
const (
	Queued    State = "queued"
	Running   State = "running"
	Done      State = "done"
	Failed    State = "failed"
	Cancelled State = "cancelled"
)

// States are all of them, in the order of a job's life.
var States = []State{Queued, Running, Done, Failed, Cancelled}

// Over reports whether the job never changes again.
func (s State) Over() bool { return s == Done || s == Failed || s == Cancelled }

// Job is what is kept of a job beside its request and its result.
type Job struct {
	ID    string
	Kind  string
	State State
	// Owner is who has asked for it, with the rights that it had then.
	Owner    access.Principal
	Accept   string // which quality of answers the owner takes; empty = whatever the policy gives
	Created  time.Time
	Started  time.Time // of the last attempt; zero = none yet
	Finished time.Time // zero = not over
	// Attempts counts the runs that began, Strikes those that ended with a failure that may pass or with the host's death.
	Attempts, Strikes int
	NotBefore         time.Time // of the next attempt
	Failure           *Failure  // of a job that failed
	RequestBytes      int64
	ResultBytes       int64
}

// Bytes is what the job takes of its tenant's room.
func (j Job) Bytes() int64 { return j.RequestBytes + j.ResultBytes }

// Result is an answer as it would have been sent.
type Result struct {
	Status      int
	ContentType string
	Header      map[string]string
	Body        []byte `json:"-"` // kept behind the rest, as it is
}

// Failure is why a job has no result, as its owner may see it.
type Failure struct {
	Status        int // of HTTP, as if the request had been sent directly
	Code, Message string
	Param         string // the field that it is about
	// Passing says that another attempt may succeed.
	Passing bool
}

func (f *Failure) Error() string { return f.Message }

// key is where a tenant's job is kept: jobs of a tenant are together, in the order in which they were made.
func key(tenant string, id uuid.UUID) []byte {
	return append(prefix(tenant), id[:]...)
}

// prefix is what the keys of a tenant's jobs begin with. A tenant's name has no zero byte.
func prefix(tenant string) []byte { return append([]byte(tenant), 0) }

const idPrefix = "job_"

// nameOf is a job's id as clients see it.
func nameOf(id uuid.UUID) string { return idPrefix + base64.RawURLEncoding.EncodeToString(id[:]) }

// parseID reads what nameOf writes, and nothing else.
func parseID(name string) (uuid.UUID, error) {
	if rest, ok := strings.CutPrefix(name, idPrefix); ok {
		if b := decode(rest, len(uuid.UUID{})); b != nil {
			return uuid.UUID(b), nil
		}
	}
	return uuid.UUID{}, errNoJob
}

// decode is the bytes of a text of exactly that size; nil if it has another form. The decoder alone would skip line breaks.
func decode(text string, size int) []byte {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != size || len(text) != base64.RawURLEncoding.EncodedLen(size) {
		return nil
	}
	return b
}

var errNoJob = fmt.Errorf("there is no such job: %w", sdk.ErrNotFound)

// The buckets. Requests and results are apart from the rest, which lists read.
const (
	jobBucket     = "jobs"
	requestBucket = "jobs.requests"
	resultBucket  = "jobs.results"
)

// Part is what this package keeps in the database.
func Part() durable.Part {
	return durable.Part{
		Name: "jobs", Buckets: []string{jobBucket, requestBucket, resultBucket},
		Migrations: []func(*durable.Tx) error{
			func(tx *durable.Tx) error {
				for _, b := range []string{jobBucket, requestBucket, resultBucket} {
					if err := tx.Make(b); err != nil {
						return err
					}
				}
				return nil
			},
		},
	}
}

// parseJob reads a record, and refuses one that no host has written.
func parseJob(record []byte) (Job, error) {
	var j Job
	dec := json.NewDecoder(bytes.NewReader(record))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return Job{}, fmt.Errorf("record of a job: %w: %w", sdk.ErrInvalid, err)
	}
	if _, err := parseID(j.ID); err != nil || j.Owner.Tenant == "" || !known(j.State) || j.RequestBytes < 0 || j.ResultBytes < 0 || (j.State == Failed) != (j.Failure != nil) {
		return Job{}, fmt.Errorf("record of a job: fields that don't fit together: %w", sdk.ErrInvalid)
	}
	return j, nil
}

func known(s State) bool { return s.Over() || s == Queued || s == Running }

// readJob is the job at a key; errNoJob where there is none.
func readJob(tx *durable.Tx, at []byte) (Job, error) {
	record, err := tx.Get(jobBucket, at)
	if err != nil {
		return Job{}, err
	}
	if record == nil {
		return Job{}, errNoJob
	}
	return parseJob(record)
}

func writeJob(tx *durable.Tx, at []byte, j Job) error {
	record, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("record of a job: %w", err)
	}
	return tx.Put(jobBucket, at, record)
}

// erase removes all that is kept of a job.
func erase(tx *durable.Tx, at []byte) error {
	for _, b := range []string{jobBucket, requestBucket, resultBucket} {
		if err := tx.Delete(b, at); err != nil {
			return err
		}
	}
	return nil
}

// encode is the record of a result: its head as a line of JSON, then the body as it is.
func (r Result) encode() ([]byte, error) {
	head, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("record of a result: %w", err)
	}
	return append(append(head, '\n'), r.Body...), nil
}

// parseResult reads what encode writes.
func parseResult(record []byte) (Result, error) {
	head, body, ok := bytes.Cut(record, []byte{'\n'})
	var r Result
	if !ok || json.Unmarshal(head, &r) != nil || r.Status < 100 || r.Status > 599 {
		return Result{}, fmt.Errorf("record of a result: %w", sdk.ErrInvalid)
	}
	r.Body = body
	return r, nil
}
