package instance

import (
	"fmt"
	"reflect"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/discovery"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk/client"
)

// remote is where a group runs; nil for one that runs here.
func (i *Instance) remote(plan config.GroupPlan) (*host.Remote, error) {
	r := plan.Remote
	if r == nil {
		return nil, nil
	}
	out := &host.Remote{
		Source:  discovery.Source{List: r.Endpoints, Host: r.DNS, Service: r.SRV, Nameserver: r.Nameserver, Name: r.TLS.ServerName},
		Refresh: r.Refresh, Zone: r.Zone,
	}
	if r.TLS.CertFile == "" {
		return out, nil
	}
	log := i.Log.With("group", plan.Name)
	var err error
	out.Certificates, err = client.OpenCertificates(client.TLSFiles{Cert: r.TLS.CertFile, Key: r.TLS.KeyFile, CA: r.TLS.CAFile}, func(line string) { log.Info(line) })
	if err != nil {
		return nil, fmt.Errorf("experts.remote of group %s: %w", plan.Name, err)
	}
	return out, nil
}

// away notes a group that runs on other machines and has to be replaced: new connections are made and tested, and take over.
func (r *reload) away(i *Instance, before, plan config.GroupPlan) error {
	if reflect.DeepEqual(before, plan) {
		return nil
	}
	remote, err := i.remote(plan)
	if err != nil {
		return err
	}
	r.renewal.Groups[plan.Name] = func(s *host.GroupSpec) error {
		s.Backend, s.Path, s.Precision, s.Packed = plan.Backend, pluginPath(r.next, plan.Plugin, "pimoe-expert-", plan.Backend), plan.Precision, nil
		s.Units, s.Pins, s.Remote = plan.Units, r.judge(i), remote
		return nil
	}
	return nil
}
