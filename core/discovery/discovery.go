// Package discovery finds the endpoints of an expert group that runs on other machines: those of a list, all addresses of a
// name (A and AAAA, as a headless Service of Kubernetes answers), or all targets of a service record (SRV).
//
// core/host asks it again and again. It refuses to remember: what an answer means for running connections is for its caller
// to decide. An answer that there is nobody is sdk.ErrNotFound, and one that did not come is sdk.ErrUnavailable; whoever
// takes the one for the other ends connections because a name server was restarted.
package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Endpoint is where an expert process listens.
type Endpoint struct {
	Address string // HOST:PORT to connect to
	Name    string // that its certificate must be for
}

// Source says where endpoints are found. One of List, Host and Service is set.
type Source struct {
	List       []string // HOST:PORT
	Host       string   // NAME:PORT: every address of the name
	Service    string   // name of SRV records, such as _expert._tcp.pimoe-experts.moe.svc.cluster.local
	Nameserver string   // IP:PORT that is asked; empty = the system's
	Name       string   // that every certificate must be for; empty = what was asked for, without _service._proto
}

const (
	// answerWithin bounds one question to a name server.
	answerWithin = 3 * time.Second
	// maxEndpoints bounds an answer: far above any group's size, far below what would make a host busy with nothing else.
	maxEndpoints = 1024
)

// Find asks once. The endpoints are sorted by address, each once.
func (s Source) Find(ctx context.Context) ([]Endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var found []Endpoint
	var err error
	switch {
	case s.Service != "":
		found, err = s.targets(ctx)
	case s.Host != "":
		found, err = s.addresses(ctx)
	default:
		for _, address := range s.List {
			host, _, _ := net.SplitHostPort(address) // the configuration was checked
			found = append(found, Endpoint{address, s.named(host)})
		}
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b Endpoint) int { return strings.Compare(a.Address, b.Address) })
	found = slices.CompactFunc(found, func(a, b Endpoint) bool { return a.Address == b.Address })
	if len(found) > maxEndpoints {
		return nil, fmt.Errorf("find %s: %d endpoints, at most %d make sense: %w", s, len(found), maxEndpoints, sdk.ErrInvalid)
	}
	return found, nil
}

// String names the source for people.
func (s Source) String() string {
	switch {
	case s.Service != "":
		return "SRV " + s.Service
	case s.Host != "":
		return s.Host
	}
	return strings.Join(s.List, ", ")
}

func (s Source) named(name string) string {
	if s.Name != "" {
		return s.Name
	}
	return strings.TrimSuffix(name, ".")
}

// addresses are all of a name.
func (s Source) addresses(ctx context.Context) ([]Endpoint, error) {
	host, port, _ := net.SplitHostPort(s.Host) // the configuration was checked
	ips, err := s.resolver().LookupNetIP(ctx, "ip", absolute(host))
	if err != nil {
		return nil, failure(s.Host, err)
	}
	return s.at(ips, port, host), nil
}

func (s Source) at(ips []netip.Addr, port, name string) []Endpoint {
	var out []Endpoint
	for _, ip := range ips {
		out = append(out, Endpoint{net.JoinHostPort(ip.Unmap().String(), port), s.named(name)})
	}
	return out
}

// targets are those of the service's records. Their priorities and weights say nothing here: a group's calls go to whoever has
// the least work.
func (s Source) targets(ctx context.Context) ([]Endpoint, error) {
	_, records, err := s.resolver().LookupSRV(ctx, "", "", absolute(s.Service))
	if err != nil {
		return nil, failure("SRV "+s.Service, err)
	}
	var out []Endpoint
	var missing error
	for _, r := range records {
		ips, err := s.resolver().LookupNetIP(ctx, "ip", r.Target)
		if err != nil {
			if missing = failure(r.Target, err); !errors.Is(missing, sdk.ErrNotFound) { // nobody has said that it is gone
				return nil, missing
			}
			continue // one that has just gone must not hide the others
		}
		out = append(out, s.at(ips, strconv.Itoa(int(r.Port)), withoutService(s.Service))...)
	}
	if len(out) == 0 && missing != nil {
		return nil, missing
	}
	return out, nil
}

// withoutService is the name behind _service._proto: the one that a certificate is for.
func withoutService(name string) string {
	parts := strings.SplitN(name, ".", 3)
	if len(parts) == 3 && strings.HasPrefix(parts[0], "_") && strings.HasPrefix(parts[1], "_") {
		return parts[2]
	}
	return name
}

// absolute keeps the resolver from trying a name with several dots in each of the search domains, five questions for one in a
// pod. Short names, such as that of a Service in the same namespace, need the search.
func absolute(name string) string {
	if strings.Count(name, ".") < 2 || strings.HasSuffix(name, ".") {
		return name
	}
	if strings.HasSuffix(name, ".svc") { // Kubernetes' shorter form of NAME.NAMESPACE.svc.cluster.local
		return name
	}
	return name + "."
}

func (s Source) resolver() *net.Resolver {
	if s.Nameserver == "" {
		return net.DefaultResolver
	}
	return &net.Resolver{
		PreferGo: true, // the system's would ask its own name servers
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.Nameserver)
		},
	}
}

func failure(what string, err error) error {
	class := sdk.ErrUnavailable
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) && dns.IsNotFound {
		class = sdk.ErrNotFound
	}
	return fmt.Errorf("find %s: %w: %w", what, class, err)
}
