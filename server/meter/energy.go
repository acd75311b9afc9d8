package meter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// energy reads the processor's own counters of energy (RAPL): one for each package, and for parts of it such as its memory.
type energy struct{ domains []*domain }

// domain is one counter, in microjoules, which begins again from zero at its largest value.
type domain struct {
	name, file string
	largest    uint64
	last       uint64
	used       float64 // microjoules since the start
}

// newEnergy finds the counters of a system whose files are below root. Those that this user may not read are left out.
func newEnergy(root string) *energy {
	e := &energy{}
	dirs, _ := filepath.Glob(filepath.Join("/", root, "sys/class/powercap/intel-rapl:*")) // the pattern is well formed
	slices.Sort(dirs)                                                                     // a package comes before its parts
	names := map[string]string{}
	for _, dir := range dirs {
		b, err := os.ReadFile(filepath.Join(dir, "name"))
		if err != nil {
			continue
		}
		id := filepath.Base(dir)
		name := strings.TrimSpace(string(b))
		if whole := names[id[:strings.LastIndexByte(id, ':')]]; whole != "" {
			name = whole + "/" + name
		}
		names[id] = name
		d := &domain{name: name, file: filepath.Join(dir, "energy_uj")}
		if d.largest, err = readNumber(filepath.Join(dir, "max_energy_range_uj")); err != nil {
			continue
		}
		if d.last, err = readNumber(d.file); err != nil {
			continue
		}
		e.domains = append(e.domains, d)
	}
	return e
}

func (e *energy) measure(p *printer) error {
	var errs []error
	for _, d := range e.domains {
		now, err := readNumber(d.file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		passed := now - d.last
		if now < d.last {
			passed += d.largest // it has begun again
		}
		d.used, d.last = d.used+float64(passed), now
		p.add("pimoe_energy_joules_total", d.used/1e6, "domain", d.name)
	}
	return errors.Join(errs...)
}

func readNumber(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: no number: %w", path, err)
	}
	return n, nil
}
