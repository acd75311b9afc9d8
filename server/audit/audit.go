// Package audit keeps the log of who changed what: an append-only file of JSON lines, each of which holds the hash of the
// one before it, and beside it a signed head that says where the file ends. So a record that was edited, removed, put
// elsewhere or cut off at the end is found by Verify.
//
// The server records every change that is asked for on the admin API, and what the host did by itself. pimoe audit reads
// the file. What is not found: whoever may read the key file, or may put the whole folder back as it was earlier, can
// write a history of their own; heads kept elsewhere (they are also in the host's log) show the latter. The package
// refuses to drop records silently, to record secrets, and to let a change pass that it can't write down.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Actor is who did something. It never holds a secret: Who is a name or the id of a key.
type Actor struct {
	Who     string `json:"who"`
	Role    string `json:"role"`
	Address string `json:"address,omitempty"` // where it came from: a class such as loopback
}

// Host is the actor of what the host does by itself.
var Host = Actor{Who: "pimoe", Role: "host"}

// Record is one thing that was done.
type Record struct {
	Prev    string         `json:"prev"` // hash of the record before, 64 zeros for the first
	Seq     uint64         `json:"seq"`  // ascending by one from 1
	Time    time.Time      `json:"time"`
	Actor   Actor          `json:"actor"`
	Action  string         `json:"action"` // such as experts.swap
	Object  string         `json:"object"` // such as a group's name
	Outcome string         `json:"outcome"`
	Details map[string]any `json:"details,omitempty"`
	Hash    string         `json:"hash,omitempty"` // SHA-256 over all before it, set by the log
}

// The outcomes. A change has two records: Asked before it is done, and one of the others.
const (
	Asked   = "asked"
	Done    = "done"
	Failed  = "failed"
	Noticed = "noticed"
)

// What the log says of itself.
const (
	actionTorn    = "audit.torn"    // the line before was cut off by a crash
	actionDamaged = "audit.damaged" // the file was not what the head says; it was put aside
	actionResumed = "audit.resumed" // records can be written again
	actionLost    = "audit.lost"    // notices came faster than the disk took them
)

// ErrUnwritable says that a record can't be written: what it would record must not be done.
var ErrUnwritable = errors.New("the audit log can't be written")

const (
	// maxLine bounds a line: texts in records are names and reasons, and whoever reads the file reads it by lines.
	maxLine = 16 << 10
	maxText = 512 // bytes of one text of the details
)

var noHash = strings.Repeat("0", sha256.Size*2)

// hashMark is between a record and its hash: `...,"hash":"<64 hex>"}`.
const hashMark = `,"hash":"`

const hashTail = len(hashMark) + sha256.Size*2 + len(`"}`)

// encode makes the line of a record, without the end of the line, and returns its hash.
func encode(r Record) (line []byte, hash string, err error) {
	r.Hash = ""
	r.Time = r.Time.UTC().Round(0)
	r.Details = bounded(r.Details)
	body, err := json.Marshal(r)
	if err == nil && len(body)+hashTail > maxLine {
		r.Details = map[string]any{"dropped_bytes": len(body)}
		r.Actor.Who, r.Object, r.Outcome = cut(r.Actor.Who), cut(r.Object), cut(r.Outcome)
		body, err = json.Marshal(r)
	}
	if err != nil {
		return nil, "", fmt.Errorf("audit record %s: %w", r.Action, err)
	}
	hash = hashOf(body)
	line = append(bytes.TrimSuffix(body, []byte("}")), hashMark...)
	return append(append(line, hash...), `"}`...), hash, nil
}

func hashOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// bounded cuts long texts.
func bounded(details map[string]any) map[string]any {
	if len(details) == 0 {
		return nil
	}
	out := make(map[string]any, len(details))
	for k, v := range details {
		if s, ok := v.(string); ok {
			v = cut(s)
		}
		out[k] = v
	}
	return out
}

func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	s = s[:maxText]
	for !utf8.ValidString(s) && len(s) > 0 {
		s = s[:len(s)-1]
	}
	return s + "..."
}

// decode reads a line. It looks at bytes, not at values: a line that says the same in other bytes is another line. own
// reports whether its hash is that of its content.
func decode(line []byte) (r Record, own bool, err error) {
	if len(line) > maxLine {
		return r, false, fmt.Errorf("longer than %d bytes", maxLine)
	}
	at := len(line) - hashTail
	if at < 1 || string(line[at:at+len(hashMark)]) != hashMark || string(line[len(line)-2:]) != `"}` {
		return r, false, errors.New("it does not end with a hash")
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return r, false, errors.New("it is not the JSON of a record")
	}
	if dec.More() {
		return r, false, errors.New("something follows the record")
	}
	body := append(append(make([]byte, 0, at+1), line[:at]...), '}')
	given := string(line[at+len(hashMark) : len(line)-2])
	return r, hashOf(body) == given && r.Hash == given, nil
}
