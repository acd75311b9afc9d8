package instance

import (
	"os"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/server/cost"
	"github.com/pimoe/pimoe/server/memory"
)

// openCosts makes the ledger of what requests cost, which the engine tells of rows. The engine is there before the first look
// after this one.
func (i *Instance) openCosts() {
	system, work := cost.OpenSystem(), &unitWork{host: i.Host}
	i.Costs = cost.New(cost.Options{
		Tenants: max(i.Config.Metrics.Tenants, 1), Units: max(i.Config.Metrics.Units, 1), Work: work.read,
		Read: func() cost.Reading {
			r := system.Read(i.hostBytes(), i.processes())
			r.Levels = i.levels()
			return r
		},
	})
}

// hostBytes is what the trunk's steps have had to read: each reads all of its weights.
func (i *Instance) hostBytes() int64 {
	if i.Engine == nil {
		return 0
	}
	return int64(i.Engine.Stats().Steps) * i.trunkBytes
}

// processes are the parts of the host that have a process.
func (i *Instance) processes() []cost.Part {
	bytes := i.Host.BytesRead()
	var out []cost.Part
	for _, p := range i.Host.Running() {
		out = append(out, cost.Part{Name: p.Name, PID: p.PID, Bytes: bytes[p.Name]})
	}
	return out
}

// unitWork says what the host's units have done, in memory that is used again.
type unitWork struct {
	host *host.Host
	list []host.UnitWork
	out  []cost.Work
}

func (u *unitWork) read() []cost.Work {
	u.list, u.out = u.host.Work(u.list), u.out[:0]
	for i := range u.list {
		w := &u.list[i]
		u.out = append(u.out, cost.Work{
			Unit: cost.Unit{Group: w.Group, Layer: w.Layer, Expert: w.Expert},
			Size: w.Size, Rows: w.Rows, Done: int64(w.Work()), Bytes: w.Bytes,
		})
	}
	return u.out
}

// sizeOfTrunk notes how large the weights of the trunk are, as they are computed with.
func (i *Instance) sizeOfTrunk(stored *weights.Model, packed *weights.Variant) {
	files := stored.Manifest.Files
	if packed != nil {
		files = packed.Files
	}
	i.trunkBytes = files[weights.TrunkFile].Size
}

// levels are how full the engine is.
func (i *Instance) levels() (l cost.Levels) {
	if i.Engine != nil {
		s := i.Engine.Stats()
		l = cost.Levels{Running: s.Running, Queued: s.Queued, KVPages: s.Pages - s.FreePages}
	}
	return l
}

// Load is what the instance was seen to do, for advice about its size.
func (i *Instance) Load(memoryLimit int64) cost.Load {
	stats := i.Engine.Stats()
	c := i.Applied()
	l := cost.Load{
		Peak: i.Costs.Peak(), Cores: Threads(c), MemoryLimit: memoryLimit, Pages: stats.Pages, PageBytes: i.Model.PageBytes(cacheSpec(c)),
		MaxRunning: c.Limits.MaxConcurrentRequests, WeightBytes: i.trunkBytes + i.Host.WeightBytes(),
	}
	touched := int64(stats.Pages-stats.FreePages+stats.CachedPages) * l.PageBytes // of the cache, which is counted whole
	l.HostBytes = max(memory.Private([]int{os.Getpid()})-touched, 0)
	busy := map[string]float64{}
	for _, g := range l.Peak.Groups {
		busy[g.Name] = g.Cores
	}
	at := map[string]int{}
	for _, s := range i.Host.Status() {
		n, known := at[s.Group]
		if !known {
			n = len(l.Groups)
			at[s.Group] = n
			l.Groups = append(l.Groups, cost.GroupLoad{Name: s.Group, Cores: busy[s.Group]})
		}
		if g := &l.Groups[n]; s.PID != 0 {
			g.Replicas++
			g.Lanes, g.PrivateBytes = s.Lanes, max(g.PrivateBytes, int64(s.PrivateBytes))
		}
	}
	return l
}
