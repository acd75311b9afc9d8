//go:build amd64 || arm64

package confine

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// Verify compares what the launch says with what the kernel says of the process, and returns the measures. Its error
// means that they differ: then the process is not what the host takes it for.
func (l *Launch) Verify(pid int) ([]Measure, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, fmt.Errorf("look at the confined process: %w", err)
	}
	s := statusOf(string(b))
	for i := range l.measures {
		m := &l.measures[i]
		if !m.Applied {
			continue
		}
		switch m.Name {
		case MeasureNoNewPrivs:
			err = s.want("NoNewPrivs", "1")
		case MeasureSeccomp:
			err = s.want("Seccomp", "2")
		case MeasureCgroup:
			if !l.Group.Holds(pid) {
				err = fmt.Errorf("the kernel does not have the process in the cgroup %s", m.Detail)
			}
		case MeasureUser:
			user := l.plan.FirstUser + uint32(pid)%l.plan.Users
			m.Detail = fmt.Sprint(user)
			err = s.want("Uid", fmt.Sprintf("%d\t%[1]d\t%[1]d\t%[1]d", user))
		}
		if err != nil {
			return nil, err
		}
	}
	l.measures = append(l.measures, capabilities(s), dumpable(pid, s))
	return l.measures, nil
}

// status are the fields of proc(5)'s status by name.
type status map[string]string

func statusOf(text string) status {
	s := status{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			s[k] = strings.TrimSpace(v)
		}
	}
	return s
}

func (s status) want(field, value string) error {
	if s[field] != value {
		return fmt.Errorf("the kernel says %s %q of the process, not %q", field, s[field], value)
	}
	return nil
}

func capabilities(s status) Measure {
	for _, set := range []string{"CapEff", "CapPrm", "CapInh", "CapAmb"} {
		if strings.Trim(s[set], "0") != "" {
			return Measure{MeasureCapabilities, false, set + " " + s[set]}
		}
	}
	return Measure{MeasureCapabilities, true, ""}
}

// dumpable looks who owns the process's files in /proc: root, if nobody may look into its memory.
func dumpable(pid int, s status) Measure {
	if strings.HasPrefix(s["Uid"], "0\t") {
		return Measure{MeasureDump, false, "it is root's, so that root's processes can read its memory"}
	}
	st, err := os.Stat(fmt.Sprintf("/proc/%d/environ", pid))
	switch {
	case err != nil:
		return Measure{MeasureDump, false, err.Error()}
	case owner(st) == 0:
		return Measure{MeasureDump, true, ""}
	default:
		return Measure{MeasureDump, false, "its memory can be read by its user's processes"}
	}
}

func owner(st fs.FileInfo) uint32 { return st.Sys().(*syscall.Stat_t).Uid }
