package cost

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// Idle is whose cost it is that the host runs at all, Other the tenants that are counted together; no tenant can have these
	// names.
	Idle  = "(idle)"
	Other = "(other)"
	// unnamed are rows of nobody, as a command's own.
	unnamed = "(none)"
	// maxTenants bounds the names that are counted apart where nobody says how many: a token can name any tenant.
	maxTenants = 256
	// maxUnits bounds a report of units where nobody says how many.
	maxUnits = 256
	// lookEvery is short beside a person's request and long beside a look, which costs microseconds; restEvery is while nothing is
	// computed.
	lookEvery = 100 * time.Millisecond
	restEvery = time.Second
)

// Used is what was used: nanoseconds of CPU, bytes of weights and microjoules.
type Used struct{ CPU, Bytes, Energy int64 }

func (u *Used) add(o Used) {
	u.CPU += o.CPU
	u.Bytes += o.Bytes
	u.Energy += o.Energy
}

// The parts that are no expert groups.
const (
	hostPart   = "host"
	routerPart = "router"
)

// Part is one part of the host and its counters, which only grow.
type Part struct {
	Name  string        // host, router or a group's name; several may have the same
	PID   int           // tells replicas apart, and a process from the one before it
	CPU   time.Duration // that the process has used since its start
	Bytes int64         // of weights that were read since the host's start, all replicas together; said by one of them
}

// Reading is what the system says at a look.
type Reading struct {
	Parts  []Part
	Busy   time.Duration    // that the machine's processors were busy since its start
	Energy map[string]int64 // microjoules since the reader was made, by domain; empty = can't be read
	Levels Levels
}

// Levels are how full something is at a look; of each the highest is kept.
type Levels struct {
	Running int `json:"running"`  // requests
	Queued  int `json:"queued"`   // requests that wait for a place
	KVPages int `json:"kv_pages"` // of running requests
}

// Options are what a Ledger works with.
type Options struct {
	Read  func() Reading   // it is not called by two goroutines at once
	Work  func() []Work    // of all units, each group's together, only lent until the next call; nil = nobody counts it
	Now   func() time.Time // nil = time.Now
	Every time.Duration    // 0 = ten looks a second
	// Tenants is how many are counted apart, the first ones; 0 = 256.
	Tenants int
	// Units is how many are reported apart, the dearest ones; 0 = 256.
	Units int
}

// account is what one tenant has used.
type account struct {
	rows  int64
	parts map[string]*Used
}

// Ledger keeps the accounts. It is the engine's Account. Life: New, Start, anything from any goroutine, Close.
type Ledger struct {
	o    Options
	stop chan struct{}
	done sync.WaitGroup
	once sync.Once

	mu       sync.Mutex // guards what follows; held for a look, which takes microseconds
	began    time.Time
	rows     map[string]int64 // of steps that have ended since the last look
	under    bool             // a step is under way
	accounts map[string]*account
	units    *units
	last     map[process]time.Duration
	bytes    map[string]int64
	busy     time.Duration
	energy   map[string]int64 // at the last look, by domain
	spent    map[string]int64 // since the ledger began, by domain
	others   int64            // of it, microjoules of what else runs on this machine
	peak     Peak
	minute   minute
}

// Peak is the most that was seen since the ledger began.
type Peak struct {
	Levels
	Cores   float64      // that were busy here, on average over the busiest minute
	Minutes float64      // that were measured; below 1 Cores is the average of what there is
	Groups  []PartOfPeak // of that minute, by name
}

// PartOfPeak is what a part has used of it.
type PartOfPeak struct {
	Name  string
	Cores float64
}

// minute is the minute under way.
type minute struct {
	began time.Time
	used  map[string]int64 // nanoseconds of CPU, by part
}

type process struct {
	name string
	pid  int
}

// New makes a ledger whose first look, now, is where counting begins.
func New(o Options) *Ledger {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Every == 0 {
		o.Every = lookEvery
	}
	if o.Tenants == 0 {
		o.Tenants = maxTenants
	}
	if o.Units == 0 {
		o.Units = maxUnits
	}
	l := &Ledger{
		o: o, stop: make(chan struct{}), began: o.Now(), rows: map[string]int64{}, accounts: map[string]*account{},
		last: map[process]time.Duration{}, bytes: map[string]int64{}, energy: map[string]int64{}, spent: map[string]int64{},
	}
	if o.Work == nil {
		o.Work = func() []Work { return nil }
	}
	l.measure(o.Read())
	l.units = newUnits(o.Work, l.began)
	l.minute = minute{began: l.began, used: map[string]int64{}}
	return l
}

// Start looks again and again until Close.
func (l *Ledger) Start() { l.done.Go(l.run) }

// Close ends the looking and waits for it. It works without a Start, and on no ledger.
func (l *Ledger) Close() {
	if l == nil {
		return
	}
	l.once.Do(func() { close(l.stop) })
	l.done.Wait()
}

func (l *Ledger) run() {
	for {
		wait := restEvery
		if l.Look() {
			wait = l.o.Every
		}
		t := time.NewTimer(wait)
		select {
		case <-l.stop:
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// Begin implements engine.Account.
func (l *Ledger) Begin() {
	l.mu.Lock()
	l.under = true
	l.mu.Unlock()
}

// Rows implements engine.Account.
func (l *Ledger) Rows(tenant string, n int) {
	l.mu.Lock()
	l.rows[l.name(tenant)] += int64(n)
	l.mu.Unlock()
}

// name is under which name a tenant is counted. mu is held.
func (l *Ledger) name(tenant string) string {
	tenant = cmp.Or(tenant, unnamed)
	if _, known := l.accounts[tenant]; known {
		return tenant
	}
	if len(l.accounts) >= l.o.Tenants {
		tenant = Other
	}
	l.open(tenant)
	return tenant
}

func (l *Ledger) open(tenant string) *account {
	a := l.accounts[tenant]
	if a == nil {
		a = &account{parts: map[string]*Used{}}
		l.accounts[tenant] = a
	}
	return a
}

// End implements engine.Account.
func (l *Ledger) End() {
	l.mu.Lock()
	l.under = false
	l.mu.Unlock()
}

// Look shares what was used since the last look, and reports whether something is or was being computed.
func (l *Ledger) Look() (busy bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.under && len(l.rows) == 0 {
		return true // whose it is shows when the step is over
	}
	busy = l.under || len(l.rows) > 0
	rows := l.rows
	l.rows = map[string]int64{}
	if len(rows) == 0 {
		rows = map[string]int64{Idle: 0}
	}
	reading := l.o.Read()
	used := l.measure(reading)
	l.charge(used, rows)
	l.units.charge(used, !busy, l.o.Now())
	l.rise(used, reading.Levels)
	return busy
}

// measure is what each part has used since the last look. mu is held, or nobody else has the ledger yet.
func (l *Ledger) measure(r Reading) map[string]Used {
	used, last, mine := map[string]Used{}, map[process]time.Duration{}, int64(0)
	for _, p := range r.Parts {
		key := process{p.Name, p.PID}
		u := used[p.Name]
		if spent := int64(p.CPU - l.last[key]); spent > 0 {
			u.CPU += spent
			mine += spent
		}
		last[key] = p.CPU
		if more := p.Bytes - l.bytes[p.Name]; more > 0 {
			u.Bytes += more
			l.bytes[p.Name] = p.Bytes
		}
		used[p.Name] = u
	}
	l.last = last
	l.share(used, mine, r)
	return used
}

// share gives the parts their energy.
func (l *Ledger) share(used map[string]Used, mine int64, r Reading) {
	total := int64(0)
	for domain, now := range r.Energy {
		if before, known := l.energy[domain]; known && now > before {
			l.spent[domain] += now - before
			total += now - before
		}
	}
	l.energy = r.Energy
	all := max(int64(r.Busy-l.busy), mine) // two clocks, of which one is coarse
	l.busy = r.Busy
	if total == 0 {
		return
	}
	ours := int64(0)
	if all > 0 {
		ours = portion(total, mine, all)
	}
	names := slices.Sorted(maps.Keys(used))
	weights := make([]int64, len(names))
	for i, n := range names {
		weights[i] = used[n].CPU
	}
	for i, e := range share(ours, weights) {
		u := used[names[i]]
		u.Energy = e
		used[names[i]] = u
	}
	l.others += total - ours
}

// charge shares what the parts have used by rows. mu is held.
func (l *Ledger) charge(used map[string]Used, rows map[string]int64) {
	names := slices.Sorted(maps.Keys(rows))
	weights := make([]int64, len(names))
	for i, n := range names {
		weights[i] = max(rows[n], 1)
		l.open(n).rows += rows[n]
	}
	for part, u := range used {
		cpu, bytes, energy := share(u.CPU, weights), share(u.Bytes, weights), share(u.Energy, weights)
		for i, n := range names {
			a := l.accounts[n]
			if a.parts[part] == nil {
				a.parts[part] = &Used{}
			}
			a.parts[part].add(Used{cpu[i], bytes[i], energy[i]})
		}
	}
}
