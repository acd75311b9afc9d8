package discovery

import (
	"errors"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/coretest/names"
	"github.com/pimoe/pimoe/sdk"
)

const service = "pimoe-experts.moe.svc.cluster.local"

// text writes endpoints as "ADDRESS=NAME".
func text(found []Endpoint) (out []string) {
	for _, e := range found {
		out = append(out, e.Address+"="+e.Name)
	}
	return out
}

// The answers of a cluster's DNS for a headless Service, over both families and as service records.
func TestFind(t *testing.T) {
	s := names.New(t)
	s.A(service, "10.0.0.2", "10.0.0.1", "fd00::7")
	s.SRV("_expert._tcp."+service, "7070 10-0-0-1."+service, "7071 10-0-0-2."+service, "7072 gone."+service)
	s.A("10-0-0-1."+service, "10.0.0.1")
	s.A("10-0-0-2."+service, "10.0.0.2")
	for _, c := range []struct {
		source Source
		want   string
	}{
		{Source{List: []string{"b:2", "a:1"}}, "a:1=a b:2=b"},
		{Source{List: []string{"10.0.0.1:7070"}, Name: "expert"}, "10.0.0.1:7070=expert"},
		{Source{Host: service + ":7070", Nameserver: s.Addr()}, "10.0.0.1:7070=S 10.0.0.2:7070=S [fd00::7]:7070=S"},
		{Source{Service: "_expert._tcp." + service, Nameserver: s.Addr()}, "10.0.0.1:7070=S 10.0.0.2:7071=S"},
	} {
		found, err := c.source.Find(t.Context())
		if got := strings.ReplaceAll(strings.Join(text(found), " "), service, "S"); err != nil || got != c.want {
			t.Errorf("%s: %q %v, want %q", c.source, got, err, c.want)
		}
	}
}

// Nobody there, and a name server that does not answer, are two things.
func TestFindNobody(t *testing.T) {
	s := names.New(t)
	source := Source{Host: service + ":7070", Nameserver: s.Addr()}
	if _, err := source.Find(t.Context()); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("no such name: %v", err)
	}
	s.A(service)
	if _, err := source.Find(t.Context()); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("a name without addresses: %v", err)
	}
	s.Break(true)
	if _, err := source.Find(t.Context()); !errors.Is(err, sdk.ErrUnavailable) || errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("a broken name server: %v", err)
	}
}

// A target that nobody answers for is not one that has gone: who has it keeps it.
func TestFindTrouble(t *testing.T) {
	s := names.New(t)
	source := Source{Service: "_expert._tcp." + service, Nameserver: s.Addr()}
	s.SRV(source.Service, "7070 one."+service, "7070 two."+service, "7070 gone."+service)
	s.A("one."+service, "10.0.0.1")
	s.A("two."+service, "10.0.0.2")
	s.Fail("two."+service, true)
	if found, err := source.Find(t.Context()); !errors.Is(err, sdk.ErrUnavailable) || errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("found %v, %v", text(found), err)
	}
	s.Fail("two."+service, false)
	if found, err := source.Find(t.Context()); err != nil || len(found) != 2 {
		t.Errorf("found %v, %v", text(found), err)
	}
}
