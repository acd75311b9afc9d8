// Package production judges whether a host may serve people: its configuration, its files, its machine and, where it can be
// asked, what runs. Each item is one function that says ok, warn or fail, why, and what to do about it.
//
// pimoe doctor --production uses it; docs/production.md lists the items. It only looks, and refuses to call something right that
// it could not see: that is a warning which says so.
package production

import (
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/server/access"
)

// Status is the outcome of an item.
type Status string

// The outcomes.
const (
	OK   Status = "ok"
	Warn Status = "warn" // somebody should have decided it so
	Fail Status = "fail" // people must not be served like this
)

// Verdict is what an item says.
type Verdict struct {
	Status Status `json:"status"`
	Why    string `json:"why"`
	Fix    string `json:"fix,omitempty"` // what to do; empty where all is right
}

// Result is an item with its verdict.
type Result struct {
	Item string `json:"item"`
	Verdict
}

// Live is what a running host says of itself.
type Live struct {
	Router  host.RouterStatus `json:"router"`
	Experts []host.Status     `json:"experts"`

	Ready    string `json:"-"` // empty = it answers requests; else why not
	Profiles bool   `json:"-"` // it serves /debug/pprof
	Open     bool   `json:"-"` // its /metrics answers without a credential
	Audit    bool   `json:"-"` // its audit log can be written
}

// Facts are what is judged.
type Facts struct {
	Config  config.Config
	Needed  []string // file names of the plugins that the configuration starts
	Root    string   // of /proc and /sys; / but in tests
	Now     time.Time
	Live    *Live  // nil = it could not be asked
	NotLive string // why
	Keys    []access.Record
	KeysErr error     // why the keys can't be read
	Backup  time.Time // of the last one; zero = none is known
}

// item is one line of the checklist.
type item struct {
	name  string
	judge func(*Facts) Verdict
}

// items is the checklist, in the order of docs/production.md. A test compares the two.
var items = []item{
	{"mode", mode},
	{"credentials", credentials},
	{"keys", keys},
	{"admin listener", adminListener},
	{"transport", transport},
	{"certificate", certificate},
	{"host names", hostNames},
	{"rate limits", rates},
	{"memory limit", memoryLimit},
	{"plugin folder", pluginFolder},
	{"plugins pinned", pinned},
	{"confinement", confinement},
	{"audit log", auditLog},
	{"encryption at rest", encryption},
	{"file permissions", permissions},
	{"log level", logLevel},
	{"log masking", masking},
	{"chaos", chaos},
	{"profiles", profiles},
	{"metrics", guardedMetrics},
	{"alerts", alerts},
	{"backup", lastBackup},
	{"disk space", diskSpace},
	{"open files", openFiles},
	{"kernel", kernel},
	{"clock", clock},
	{"running host", running},
}

// Items are the names of all items, in order.
func Items() (names []string) {
	for _, i := range items {
		names = append(names, i.name)
	}
	return names
}

// Judge goes through the checklist. An item without anything to judge is left out.
func Judge(f Facts) []Result {
	var out []Result
	for _, i := range items {
		if v := i.judge(&f); v.Status != "" {
			out = append(out, Result{i.name, v})
		}
	}
	return out
}

// Failures counts the items that fail.
func Failures(all []Result) (n int) {
	for _, r := range all {
		if r.Status == Fail {
			n++
		}
	}
	return n
}

func ok(why string) Verdict        { return Verdict{OK, why, ""} }
func warn(why, fix string) Verdict { return Verdict{Warn, why, fix} }
func fail(why, fix string) Verdict { return Verdict{Fail, why, fix} }
