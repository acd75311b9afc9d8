package acceptance

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/coretest/wan"
)

// namespace is a network of its own behind a cable.
type namespace struct {
	name, near, far string // the namespace, and the cable's two ends
	ip              string // in it
}

// newNamespace makes one with an address in a network that is reserved for tests of networks (RFC 2544).
func newNamespace(t *testing.T, n int) *namespace {
	t.Helper()
	id := os.Getpid()%4096 + 1
	ns := &namespace{
		name: fmt.Sprintf("pimoe-%d-%d", os.Getpid(), n), near: fmt.Sprintf("pm%da%d", id, n), far: fmt.Sprintf("pm%db%d", id, n),
		ip: fmt.Sprintf("198.18.%d.%d", id%256, 4*n+2),
	}
	host := fmt.Sprintf("198.18.%d.%d", id%256, 4*n+1)
	t.Cleanup(func() {
		_ = exec.Command("ip", "link", "del", ns.near).Run() // what was not made can't be removed
		_ = exec.Command("ip", "netns", "del", ns.name).Run()
	})
	for _, args := range [][]string{
		{"netns", "add", ns.name}, {"link", "add", ns.near, "type", "veth", "peer", "name", ns.far, "netns", ns.name},
		{"addr", "add", host + "/30", "dev", ns.near}, {"link", "set", ns.near, "up"},
		{"-n", ns.name, "addr", "add", ns.ip + "/30", "dev", ns.far}, {"-n", ns.name, "link", "set", ns.far, "up"}, {"-n", ns.name, "link", "set", "lo", "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Skipf("needs network namespaces: ip %v: %v: %s", args, err, out)
		}
	}
	return ns
}

// cable plugs it in or out.
func (ns *namespace) cable(t *testing.T, state string) {
	t.Helper()
	if out, err := exec.Command("ip", "-n", ns.name, "link", "set", ns.far, state).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestRemoteNamespaces: two hosts use experts in two network namespaces, 1 ms away, one behind losses; the bits are those of
// experts here. The cable of one is pulled out under load: no answer fails and none is wrong.
func TestRemoteNamespaces(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs network namespaces: not root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs network namespaces: no ip (Debian: iproute2)")
	}
	one, two := newNamespace(t, 0), newNamespace(t, 1)
	home, _ := stored(t, "")
	tls, flags, _ := pair(t, coretest.NewAuthority(t))
	tls.ServerName = "expert"
	var through []string
	for _, ns := range []*namespace{one, two} {
		e := serving(t, []string{"ip", "netns", "exec", ns.name}, "cpu", home, append(flags, "--listen", net.JoinHostPort(ns.ip, "7070"))...)
		way := wan.New(t, e.addr) // the kernel may have no netem
		way.Delay(time.Millisecond)
		if ns == two {
			way.Lose(0.002)
		}
		through = append(through, way.Addr())
	}
	here := open(t, func(c *config.Config) { c.Home = home })
	want := run(t.Context(), here, greedy(story(here, "a cat"), 6))
	if want.err != nil {
		t.Fatal(want.err)
	}
	var all []*load
	for range 2 {
		i := open(t, func(c *config.Config) { c.Home = home }, away(tls, through...))
		eventually(t, "two endpoints ready", func() bool { return ready(i) == 2 })
		l := begin(t, i, 2, want.ids)
		l.more(t, 2)
		all = append(all, l)
	}
	one.cable(t, "down")
	for _, l := range all {
		l.more(t, 3)
	}
	one.cable(t, "up")
	for _, l := range all {
		l.more(t, 1)
		l.end(t)
	}
}
