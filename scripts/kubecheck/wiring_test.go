package kubecheck

import (
	"slices"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	security "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"github.com/pimoe/pimoe/scripts/kubecheck/committed"
)

// cluster is the objects of one deployment, to ask whether what they name is there.
type cluster struct {
	t    *testing.T
	name string
	all  []runtime.Object
}

// of are the objects of one type.
func of[T runtime.Object](c cluster) []T {
	var out []T
	for _, o := range c.all {
		if o, ok := o.(T); ok {
			out = append(out, o)
		}
	}
	return out
}

// one is the object of that type and name.
func one[T interface {
	runtime.Object
	metav1.Object
}](c cluster, name string) (found T, ok bool) {
	for _, o := range of[T](c) {
		if o.GetName() == name {
			return o, true
		}
	}
	c.t.Errorf("%s: no %T %s", c.name, found, name)
	return found, false
}

// pods are the templates that a selector takes.
func (c cluster) pods(selector *metav1.LabelSelector) []core.PodTemplateSpec {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		c.t.Errorf("%s: %v", c.name, err)
	}
	var out []core.PodTemplateSpec
	for _, d := range of[*apps.Deployment](c) {
		if s.Matches(labels.Set(d.Spec.Template.Labels)) {
			out = append(out, d.Spec.Template)
		}
	}
	return out
}

// serves reports whether a pod has the port, by number or name.
func serves(p core.PodTemplateSpec, port intstr.IntOrString) bool {
	for _, c := range p.Spec.Containers {
		for _, has := range c.Ports {
			if has.Name == port.StrVal && port.StrVal != "" || port.StrVal == "" && has.ContainerPort == port.IntVal {
				return true
			}
		}
	}
	return false
}

// TestRestricted: the cluster's own judge lets every pod into a namespace of the restricted profile, and nothing weaker.
func TestRestricted(t *testing.T) {
	judge, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	restricted := security.LevelVersion{Level: security.LevelRestricted, Version: security.LatestVersion()}
	refused := func(p core.PodTemplateSpec) string {
		result := policy.AggregateCheckResults(judge.EvaluatePod(restricted, &p.ObjectMeta, &p.Spec))
		return result.ForbiddenDetail()
	}
	for _, d := range committed.All(t) {
		for _, o := range of[*apps.Deployment](cluster{t, d.Name, committed.Decode(t, d.Manifests)}) {
			p := o.Spec.Template
			if why := refused(p); why != "" {
				t.Errorf("%s: %s: %s", d.Name, o.Name, why)
			}
			if p.Spec.AutomountServiceAccountToken == nil || *p.Spec.AutomountServiceAccountToken {
				t.Errorf("%s: %s has a token of the cluster's API", d.Name, o.Name)
			}
			for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
				if c.SecurityContext.ReadOnlyRootFilesystem == nil || !*c.SecurityContext.ReadOnlyRootFilesystem {
					t.Errorf("%s: %s: %s can write to its root file system", d.Name, o.Name, c.Name)
				}
				if c.Resources.Requests.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
					t.Errorf("%s: %s: %s has no requests, or no limit of memory", d.Name, o.Name, c.Name)
				}
			}
			p.Spec.SecurityContext = p.Spec.SecurityContext.DeepCopy()
			p.Spec.SecurityContext.RunAsNonRoot = nil
			if refused(p) == "" {
				t.Errorf("%s: %s may be root, and the judge says nothing", d.Name, o.Name)
			}
		}
	}
}

// TestWiring: what an object names is there: pods behind selectors, ports, targets, volumes, accounts.
func TestWiring(t *testing.T) {
	for _, d := range committed.All(t) {
		c := cluster{t, d.Name, committed.Decode(t, d.Manifests)}
		for _, o := range of[*apps.Deployment](c) {
			c.deployment(o)
		}
		for _, s := range of[*core.Service](c) {
			c.service(s)
		}
		for _, b := range of[*policyv1.PodDisruptionBudget](c) {
			if len(c.pods(b.Spec.Selector)) != 1 {
				t.Errorf("%s: the budget %s is for %d sets of pods", d.Name, b.Name, len(c.pods(b.Spec.Selector)))
			}
		}
		for _, h := range of[*autoscaling.HorizontalPodAutoscaler](c) {
			one[*apps.Deployment](c, h.Spec.ScaleTargetRef.Name)
		}
		for _, i := range of[*networking.Ingress](c) {
			backend := i.Spec.Rules[0].HTTP.Paths[0].Backend.Service
			if s, ok := one[*core.Service](c, backend.Name); ok && !hasPort(s, backend.Port.Name) {
				t.Errorf("%s: the service %s has no port %s", d.Name, s.Name, backend.Port.Name)
			}
			if i.Spec.Rules[0].Host != i.Spec.TLS[0].Hosts[0] {
				t.Errorf("%s: a certificate for %s at %s", d.Name, i.Spec.TLS[0].Hosts[0], i.Spec.Rules[0].Host)
			}
		}
		for _, m := range of[*monitoring.ServiceMonitor](c) {
			c.monitor(m)
		}
		for _, s := range of[*committed.ScaledObject](c) {
			one[*apps.Deployment](c, s.Spec.ScaleTargetRef.Name)
			one[*committed.InterceptorRoute](c, s.Spec.Triggers[0].Metadata["interceptorRoute"])
		}
		for _, r := range of[*committed.InterceptorRoute](c) {
			one[*core.Service](c, r.Spec.Target.Service)
		}
	}
}

func hasPort(s *core.Service, name string) bool {
	return slices.ContainsFunc(s.Spec.Ports, func(p core.ServicePort) bool { return p.Name == name })
}

func (c cluster) deployment(o *apps.Deployment) {
	one[*core.ServiceAccount](c, o.Spec.Template.Spec.ServiceAccountName)
	if own := c.pods(o.Spec.Selector); len(own) != 1 {
		c.t.Errorf("%s: the selector of %s takes %d sets of pods", c.name, o.Name, len(own))
	}
	spec, volumes := o.Spec.Template.Spec, map[string]bool{}
	for _, v := range spec.Volumes {
		volumes[v.Name] = false
		if v.ConfigMap != nil {
			one[*core.ConfigMap](c, v.ConfigMap.Name)
		}
	}
	for _, container := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, m := range container.VolumeMounts {
			if _, ok := volumes[m.Name]; !ok {
				c.t.Errorf("%s: %s mounts %s, which is no volume", c.name, o.Name, m.Name)
			}
			volumes[m.Name] = true
		}
		for _, p := range []*core.Probe{container.StartupProbe, container.ReadinessProbe, container.LivenessProbe} {
			if p != nil && !serves(o.Spec.Template, probed(p)) {
				c.t.Errorf("%s: %s has a probe of a port that it does not have", c.name, o.Name)
			}
		}
	}
	for name, used := range volumes {
		if !used {
			c.t.Errorf("%s: %s has a volume %s that nothing mounts", c.name, o.Name, name)
		}
	}
}

// probed is the port that a probe asks.
func probed(p *core.Probe) intstr.IntOrString {
	switch {
	case p.HTTPGet != nil:
		return p.HTTPGet.Port
	case p.GRPC != nil:
		return intstr.FromInt32(p.GRPC.Port)
	}
	return p.TCPSocket.Port
}

func (c cluster) service(s *core.Service) {
	if s.Spec.Type == core.ServiceTypeExternalName {
		return
	}
	behind := c.pods(&metav1.LabelSelector{MatchLabels: s.Spec.Selector})
	if len(behind) != 1 {
		c.t.Errorf("%s: the service %s has %d sets of pods", c.name, s.Name, len(behind))
		return
	}
	for _, p := range s.Spec.Ports {
		if !serves(behind[0], p.TargetPort) {
			c.t.Errorf("%s: the service %s leads to port %s, which its pods don't have", c.name, s.Name, &p.TargetPort)
		}
	}
}

func (c cluster) monitor(m *monitoring.ServiceMonitor) {
	s, err := metav1.LabelSelectorAsSelector(&m.Spec.Selector)
	if err != nil {
		c.t.Errorf("%s: %v", c.name, err)
		return
	}
	for _, service := range of[*core.Service](c) {
		if s.Matches(labels.Set(service.Labels)) && hasPort(service, m.Spec.Endpoints[0].Port) {
			return
		}
	}
	c.t.Errorf("%s: %s finds no service with its port", c.name, m.Name)
}

// TestFlows tries every connection between the pods of a release and what is around it, as the policies decide it: exactly
// those in the table pass.
func TestFlows(t *testing.T) {
	type flow struct{ from, to, port string }
	for _, d := range committed.All(t) {
		want := map[flow]bool{
			{"ingress-nginx", "host", "http"}: true, {"ingress-nginx", "host", "grpc"}: true, {"monitoring", "host", "http"}: true, {"host", "kube-system", "53"}: true,
			{"host", "redis", "redis"}: true, {"host", "expert", "expert"}: d.Name == "groups",
		}
		if d.Name == "edge" {
			delete(want, flow{"host", "redis", "redis"})
		}
		if d.Name == "serverless" {
			delete(want, flow{"ingress-nginx", "host", "http"})
			delete(want, flow{"ingress-nginx", "host", "grpc"})
			want[flow{"keda", "host", "http"}], want[flow{"keda", "host", "grpc"}] = true, true
		}
		c := cluster{t, d.Name, committed.Decode(t, d.Manifests)}
		peers := map[string]peer{}
		for _, name := range []string{"ingress-nginx", "monitoring", "kube-system", "keda", "default"} {
			peers[name] = peer{namespace: name, labels: labels.Set{"k8s-app": "kube-dns"}, ports: map[string]int32{"53": 53, "443": 443}}
		}
		for _, o := range of[*apps.Deployment](c) {
			p := peer{labels: o.Spec.Template.Labels, ports: map[string]int32{}}
			for _, port := range o.Spec.Template.Spec.Containers[0].Ports {
				p.ports[port.Name] = port.ContainerPort
			}
			peers[o.Spec.Template.Labels["app.kubernetes.io/component"]] = p
		}
		for from, a := range peers {
			for to, b := range peers {
				if from == to || a.namespace != "" && b.namespace != "" {
					continue
				}
				for name, number := range b.ports {
					f := flow{from, to, name}
					passes := c.allows(a, b, name, number, networking.PolicyTypeEgress) && c.allows(b, a, name, number, networking.PolicyTypeIngress)
					if passes != want[f] {
						t.Errorf("%s: %+v passes: %v, want %v", d.Name, f, passes, want[f])
					}
				}
			}
		}
	}
}

// peer is an end of a connection: a pod of the release, or one in another namespace.
type peer struct {
	namespace string // empty = the release's
	labels    labels.Set
	ports     map[string]int32
}

// allows reports whether the policies of the subject's namespace let it connect to, or be reached by, the other.
func (c cluster) allows(subject, other peer, port string, number int32, direction networking.PolicyType) bool {
	if subject.namespace != "" {
		return true // not ours to say
	}
	selected := false
	for _, p := range of[*networking.NetworkPolicy](c) {
		if s, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector); err != nil || !s.Matches(subject.labels) || !slices.Contains(p.Spec.PolicyTypes, direction) {
			continue
		}
		selected = true
		for _, r := range p.Spec.Ingress {
			if direction == networking.PolicyTypeIngress && matches(r.From, r.Ports, other, port, number) {
				return true
			}
		}
		for _, r := range p.Spec.Egress {
			if direction == networking.PolicyTypeEgress && matches(r.To, r.Ports, other, port, number) {
				return true
			}
		}
	}
	return !selected
}

func matches(peers []networking.NetworkPolicyPeer, ports []networking.NetworkPolicyPort, other peer, port string, number int32) bool {
	one := func(s *metav1.LabelSelector, set labels.Set) bool {
		selector, err := metav1.LabelSelectorAsSelector(s)
		return err == nil && selector.Matches(set)
	}
	from := slices.ContainsFunc(peers, func(p networking.NetworkPolicyPeer) bool {
		inNamespace := other.namespace == ""
		if p.NamespaceSelector != nil {
			inNamespace = one(p.NamespaceSelector, labels.Set{"kubernetes.io/metadata.name": other.namespace})
		}
		return inNamespace && (p.PodSelector == nil || one(p.PodSelector, other.labels))
	})
	return from && slices.ContainsFunc(ports, func(p networking.NetworkPolicyPort) bool {
		return p.Port == nil || p.Port.StrVal == port || p.Port.StrVal == "" && p.Port.IntVal == number
	})
}
