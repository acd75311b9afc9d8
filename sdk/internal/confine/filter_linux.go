//go:build amd64 || arm64

package confine

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/sdk/internal/confine/launch"
)

// verdict is what happens to a call that the table does not let pass.
type verdict uint32

const (
	allowed verdict = unix.SECCOMP_RET_ALLOW
	refused verdict = unix.SECCOMP_RET_ERRNO | verdict(unix.EPERM)
	absent  verdict = unix.SECCOMP_RET_ERRNO | verdict(unix.ENOSYS) // libraries fall back to an older call
	killed  verdict = unix.SECCOMP_RET_KILL_PROCESS
)

func (v verdict) String() string {
	return map[verdict]string{allowed: "allowed", refused: "EPERM", absent: "ENOSYS", killed: "killed"}[v]
}

// rule lets a system call pass if all its checks hold.
type rule struct {
	name   string
	number uint32
	checks []check
	other  verdict // if a check fails, or for a call that never passes; 0 = refused
	never  bool
}

// check compares half an argument of a call.
type check struct {
	arg    int
	high   bool     // its upper half
	mask   uint32   // of the bits that count; 0 = all
	values []uint32 // one of them; none = the process's own number
	about  string
}

func only(about string, arg int, values ...uint32) check {
	return check{arg: arg, values: values, about: about}
}

func (r rule) otherwise() verdict {
	if r.other == 0 {
		return refused
	}
	return r.other
}

// String is the rule's line in the specification.
func (r rule) String() string {
	if r.never {
		return r.name + ": " + r.otherwise().String()
	}
	var about []string
	for _, c := range r.checks {
		if c.about != "" {
			about = append(about, c.about)
		}
	}
	if len(about) == 0 {
		return r.name + ": allowed"
	}
	return fmt.Sprintf("%s: allowed if %s; else %v", r.name, strings.Join(about, " and "), r.otherwise())
}

// Offsets in struct seccomp_data (seccomp(2)). Both architectures are little-endian.
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16
)

// program is a filter with the places that only the process itself can fill in.
type program struct {
	code []syscall.SockFilter
	pids []int // instructions that compare with the process's own number
}

func (p *program) add(code uint16, k uint32, yes, no uint8) {
	p.code = append(p.code, syscall.SockFilter{Code: code, Jt: yes, Jf: no, K: k})
}

func (p *program) load(offset uint32) { p.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }
func (p *program) give(v verdict)     { p.add(unix.BPF_RET|unix.BPF_K, uint32(v), 0, 0) }
func (p *program) equal(k uint32, no int) {
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, 0, uint8(no))
}

// assemble makes the filter of a table: whoever calls by another architecture's numbers is no program of ours.
func assemble(rules []rule) (program, error) {
	var p program
	p.load(dataArch)
	p.equal(auditArch, 1)
	p.add(unix.BPF_JMP|unix.BPF_JA, 1, 0, 0)
	p.give(killed)
	p.load(dataNumber)
	if otherABI != 0 {
		p.add(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, otherABI, 0, 1)
		p.give(killed)
	}
	for _, r := range rules {
		body := r.body()
		p.equal(r.number, len(body.code))
		for _, i := range body.pids {
			p.pids = append(p.pids, len(p.code)+i)
		}
		p.code = append(p.code, body.code...)
		if len(body.code) > 255 {
			return p, fmt.Errorf("rule for %s: %d instructions are more than a jump reaches", r.name, len(body.code))
		}
	}
	p.give(refused)
	if len(p.code) > launch.MaxFilter || len(p.pids) > len(launch.Plan{}.PIDs) {
		return p, fmt.Errorf("a filter of %d instructions is too long", len(p.code))
	}
	return p, nil
}

// body is what happens once the number is right.
func (r rule) body() program {
	var b program
	if r.never {
		b.give(r.otherwise())
		return b
	}
	for _, c := range r.checks {
		offset := uint32(dataArgs + 8*c.arg)
		if c.high {
			offset += 4
		}
		b.load(offset)
		if c.mask != 0 {
			b.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, c.mask, 0, 0)
		}
		values := c.values
		if values == nil {
			b.pids = append(b.pids, len(b.code))
			values = []uint32{0}
		}
		for i, v := range values {
			b.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, v, uint8(len(values)-i), 0)
		}
		b.give(r.otherwise())
	}
	b.give(allowed)
	return b
}

// once is the rule for the exec that ends the launch: these pointers, which nobody else knows, in memory that the exec
// takes away.
func once(exe int, empty, argv, env uint64) rule {
	r := rule{name: "execveat", number: unix.SYS_EXECVEAT, other: killed, checks: []check{
		only("it is the launch's own", 0, uint32(exe)), {arg: 4, values: []uint32{unix.AT_EMPTY_PATH}},
	}}
	for i, v := range []uint64{empty, argv, env} {
		r.checks = append(r.checks, check{arg: i + 1, values: []uint32{uint32(v)}}, check{arg: i + 1, high: true, values: []uint32{uint32(v >> 32)}})
	}
	return r
}

// count is how many system calls the rules let pass at all.
func count(rules []rule) (n int) {
	for _, r := range rules {
		if !r.never {
			n++
		}
	}
	return n
}
