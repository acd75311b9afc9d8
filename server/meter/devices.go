package meter

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk/expert"
)

// devices prints what processes say of the devices that compute for them. A place has one process after the other; its sums go on
// over all of them.
type devices struct {
	places map[devicePlace]*onDevice
	busy   map[string]float64 // seconds of each device, of all places, at the last look
	looked time.Time
}

type devicePlace struct {
	group   string
	replica int
	device  string
}

// onDevice is a place's process.
type onDevice struct {
	pid    int
	now    expert.Device // of this process
	before expert.Device // sums of those before it
}

func newDevices() *devices { return &devices{places: map[devicePlace]*onDevice{}} }

func (ds *devices) measure(p *printer, list []host.DeviceUse, now time.Time) {
	if len(list) == 0 && len(ds.places) == 0 {
		return
	}
	present := map[string]expert.Device{}
	for _, u := range list {
		at := devicePlace{u.Group, u.Replica, u.ID}
		x := ds.places[at]
		if x == nil {
			x = &onDevice{}
			ds.places[at] = x
		}
		x.take(u)
		if d, seen := present[u.ID]; !seen || u.UsedBytes > d.UsedBytes {
			present[u.ID] = u.Device
		}
	}
	for _, id := range slices.Sorted(maps.Keys(present)) {
		p.add("pimoe_device_memory_total_bytes", float64(present[id].MemoryBytes), "device", id)
		p.add("pimoe_device_memory_used_bytes", float64(present[id].UsedBytes), "device", id)
	}
	ds.printBusy(p, now)
	order := slices.SortedFunc(maps.Keys(ds.places), func(a, b devicePlace) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.replica, b.replica), cmp.Compare(a.device, b.device))
	})
	for _, at := range order {
		ds.places[at].print(p, []string{"group", at.group, "replica", strconv.Itoa(at.replica), "device", at.device})
	}
}

// take notes what a place's process says now. Another process, or sums that have fallen, begin anew.
func (x *onDevice) take(u host.DeviceUse) {
	d := u.Device
	if x.pid != u.PID || d.KernelSeconds < x.now.KernelSeconds || d.UploadSeconds < x.now.UploadSeconds || d.DownloadSeconds < x.now.DownloadSeconds ||
		d.UploadBytes < x.now.UploadBytes || d.DownloadBytes < x.now.DownloadBytes {
		x.before, x.now = x.all(), expert.Device{}
	}
	x.pid, x.now = u.PID, d
}

// all are the sums of a place.
func (x *onDevice) all() expert.Device {
	return expert.Device{
		KernelSeconds: x.before.KernelSeconds + x.now.KernelSeconds,
		UploadSeconds: x.before.UploadSeconds + x.now.UploadSeconds, DownloadSeconds: x.before.DownloadSeconds + x.now.DownloadSeconds,
		UploadBytes: x.before.UploadBytes + x.now.UploadBytes, DownloadBytes: x.before.DownloadBytes + x.now.DownloadBytes,
	}
}

// printBusy prints the share of the time since the last look in which a device computed or copied for these processes. What
// overlaps counts twice in their sums, so the share is cut off at 1.
func (ds *devices) printBusy(p *printer, now time.Time) {
	busy := map[string]float64{}
	for at, x := range ds.places {
		d := x.all()
		busy[at.device] += d.KernelSeconds + d.UploadSeconds + d.DownloadSeconds
	}
	if since := now.Sub(ds.looked).Seconds(); ds.busy != nil && since > 0 {
		for _, id := range slices.Sorted(maps.Keys(busy)) {
			p.add("pimoe_device_busy_ratio", min((busy[id]-ds.busy[id])/since, 1), "device", id)
		}
	}
	ds.busy, ds.looked = busy, now
}

func (x *onDevice) print(p *printer, labels []string) {
	d := x.all()
	p.add("pimoe_device_weight_bytes", float64(x.now.WeightBytes), labels...)
	p.add("pimoe_device_kernel_seconds_total", d.KernelSeconds, labels...)
	for _, way := range []struct {
		name    string
		seconds float64
		bytes   int64
	}{{"up", d.UploadSeconds, d.UploadBytes}, {"down", d.DownloadSeconds, d.DownloadBytes}} {
		with := append(slices.Clone(labels), "direction", way.name)
		p.add("pimoe_device_copy_seconds_total", way.seconds, with...)
		p.add("pimoe_device_copy_bytes_total", float64(way.bytes), with...)
	}
}
