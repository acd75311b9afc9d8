package meter

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/net"
)

// machine measures the whole machine.
type machine struct {
	volumes map[string]string
	last    cpu.TimesStat
}

func newMachine(volumes map[string]string) *machine { return &machine{volumes: volumes} }

func (m *machine) measure(p *printer) error {
	return errors.Join(m.cpu(p), m.memory(p), m.load(p), m.space(p), m.disks(p), m.network(p))
}

// cpu prints the busy share of the time since the last measurement; of the first one, since the machine's start.
func (m *machine) cpu(p *printer) error {
	all, err := cpu.Times(false)
	if err == nil && len(all) != 1 {
		err = errors.New("the system does not say")
	}
	if err != nil {
		return fmt.Errorf("time of the cores: %w", err)
	}
	now := all[0]
	busy, total := busyOf(now)
	busyBefore, totalBefore := busyOf(m.last)
	m.last = now
	if passed := total - totalBefore; passed > 0 {
		p.add("pimoe_system_cpu_ratio", min(max((busy-busyBefore)/passed, 0), 1))
	}
	return nil
}

// busyOf is how long the cores have worked, and how long they have been there. Guests are in user time already; time that was
// stolen from this machine is not its own work.
func busyOf(t cpu.TimesStat) (busy, total float64) {
	busy = t.User + t.Nice + t.System + t.Irq + t.Softirq
	return busy, busy + t.Idle + t.Iowait + t.Steal
}

func (m *machine) memory(p *printer) error {
	v, err := mem.VirtualMemory()
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	used := float64(v.Total - v.Available)
	p.add("pimoe_system_memory_total_bytes", float64(v.Total))
	p.add("pimoe_system_memory_used_bytes", used)
	if v.Total > 0 {
		p.add("pimoe_system_memory_used_ratio", used/float64(v.Total))
	}
	return nil
}

func (m *machine) load(p *printer) error {
	l, err := load.Avg()
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	p.add("pimoe_system_load1", l.Load1)
	return nil
}

func (m *machine) space(p *printer) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(m.volumes)) {
		u, err := disk.Usage(m.volumes[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("file system of %s: %w", m.volumes[name], err))
			continue
		}
		p.add("pimoe_system_disk_free_bytes", float64(u.Free), "volume", name)
		p.add("pimoe_system_disk_total_bytes", float64(u.Total), "volume", name)
	}
	return errors.Join(errs...)
}

func (m *machine) disks(p *printer) error {
	all, err := disk.IOCounters()
	if err != nil {
		return fmt.Errorf("disks: %w", err)
	}
	var read, written uint64
	for name, d := range all {
		if !wholeDisk(name, all) {
			continue
		}
		read += d.ReadBytes
		written += d.WriteBytes
	}
	p.add("pimoe_system_disk_read_bytes_total", float64(read))
	p.add("pimoe_system_disk_written_bytes_total", float64(written))
	return nil
}

// wholeDisk reports whether a block device is neither a part of another one of the list nor made of others, so that no byte counts
// twice.
func wholeDisk[T any](name string, all map[string]T) bool {
	for _, made := range [...]string{"loop", "ram", "zram", "dm-", "md", "drbd"} {
		if strings.HasPrefix(name, made) {
			return false
		}
	}
	part := strings.TrimRight(name, "0123456789")
	if part == name {
		return true
	}
	for _, disk := range [...]string{part, strings.TrimSuffix(part, "p")} { // sda1 and nvme0n1p1
		if _, there := all[disk]; there {
			return false
		}
	}
	return true
}

func (m *machine) network(p *printer) error {
	all, err := net.IOCounters(true)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	var received, sent uint64
	for _, n := range all {
		if n.Name == "lo" || n.Name == "lo0" {
			continue
		}
		received += n.BytesRecv
		sent += n.BytesSent
	}
	p.add("pimoe_system_network_received_bytes_total", float64(received))
	p.add("pimoe_system_network_sent_bytes_total", float64(sent))
	return nil
}
