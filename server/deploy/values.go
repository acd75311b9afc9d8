package deploy

// Environment says how careful a deployment is.
type Environment string

// Profile says for what kind of place it is made.
type Profile string

// The environments and profiles of FEATURES F21, F23 and F34.
const (
	Development Environment = "development"
	Staging     Environment = "staging"
	Production  Environment = "production"

	Standard    Profile = "standard"
	Edge        Profile = "edge"         // little memory, one host
	Serverless  Profile = "serverless"   // scales to zero; the imported models are there before a host is
	MultiRegion Profile = "multi-region" // a region's label, routing hints, headers for a CDN
)

// Values are what every target is made from.
type Values struct {
	Name        string      `yaml:"name"`      // of the application and its objects
	Namespace   string      `yaml:"namespace"` // Kubernetes
	Environment Environment `yaml:"environment"`
	Profile     Profile     `yaml:"profile"`
	Region      string      `yaml:"region"` // with the profile multi-region
	Host        string      `yaml:"host"`   // the name that clients use
	Image       Image       `yaml:"image"`
	Replicas    int         `yaml:"replicas"` // of the host
	Scale       Scale       `yaml:"scale"`
	Resources   Resources   `yaml:"resources"` // of one host
	Ports       Ports       `yaml:"ports"`
	Limits      Limits      `yaml:"limits"`
	TLS         TLS         `yaml:"tls"`
	// Monitoring says how often hosts are looked at, who is told, and where traces go.
	Monitoring Monitoring `yaml:"monitoring"`
	Proxy      Proxy      `yaml:"proxy"`
	Network    string     `yaml:"network"`  // IPv4 network of the containers of compose, with a prefix of 24 bits
	Programs   string     `yaml:"programs"` // folder of the executables on a machine without containers
	Store      Store      `yaml:"store"`
	// Groups are the expert groups that run as deployments of their own; none means that the host starts every process.
	Groups []Group `yaml:"groups"`
	Kube   Kube    `yaml:"kube"`
}

// Image is a container image.
type Image struct {
	Repository string `yaml:"repository"`
	Tag        string `yaml:"tag"`
	Digest     string `yaml:"digest"` // sha256:...; wins over the tag
}

// Ref is the image's reference.
func (i Image) Ref() string {
	if i.Digest != "" {
		return i.Repository + "@" + i.Digest
	}
	return i.Repository + ":" + i.Tag
}

// Scale bounds the number of replicas.
type Scale struct {
	Min        int `yaml:"min"`
	Max        int `yaml:"max"`
	CPUPercent int `yaml:"cpu_percent"` // of the request, at which one more is started
}

// Resources bound one process tree.
type Resources struct {
	CPUs     int `yaml:"cpus"`
	MemoryMB int `yaml:"memory_mb"`
}

// Ports are of the programs that run beside one another.
type Ports struct {
	HTTP         int `yaml:"http"`  // the host's public listener
	Inner        int `yaml:"inner"` // the host's public listener behind a socket that starts it, with the profile serverless
	Admin        int `yaml:"admin"` // the host's admin listener, loopback only
	GRPC         int `yaml:"grpc"`  // Open Inference Protocol
	Expert       int `yaml:"expert"`
	Redis        int `yaml:"redis"`
	Prometheus   int `yaml:"prometheus"`
	Alertmanager int `yaml:"alertmanager"`
	Grafana      int `yaml:"grafana"`
	Loki         int `yaml:"loki"`
	OTLP         int `yaml:"otlp"` // the collector's gRPC port
}

// Proxy is nginx before the hosts.
type Proxy struct {
	HTTP      int      `yaml:"http"`      // leads to HTTPS
	HTTPS     int      `yaml:"https"`     // of clients
	Addresses []string `yaml:"addresses"` // of nginx, as the hosts see it: they believe its X-Forwarded-For
	Hosts     []string `yaml:"hosts"`     // addresses of the hosts, with a port where it is not ports.http
}

// Limits are the server's, of which proxies in front of it must know.
type Limits struct {
	BodyMB         int `yaml:"body_mb"`
	RequestSeconds int `yaml:"request_seconds"`
	RatePerMinute  int `yaml:"rate_per_minute"` // of one client's address
}

// TLS names the secrets, never their content.
type TLS struct {
	Secret string `yaml:"secret"` // of the certificate that clients see
	Expert string `yaml:"expert"` // of the certificates between host and expert groups
}

// Monitoring is what Prometheus, Alertmanager and the collector are told beside addresses.
type Monitoring struct {
	ScrapeSeconds      int    `yaml:"scrape_seconds"`
	RetentionDays      int    `yaml:"retention_days"`        // of logs
	Webhook            string `yaml:"webhook"`               // address that Alertmanager posts to; empty = alerts are only shown
	MinTokensPerSecond int    `yaml:"min_tokens_per_second"` // of all hosts together; 0 = none are expected
	Traces             string `yaml:"traces"`                // HOST:PORT of what keeps traces (OTLP over gRPC); empty = they are only counted in the collector's log
}

// Store is where hosts have imported models from that they did not import themselves: at most one of both, neither = each has
// a store of its own.
type Store struct {
	Volume string `yaml:"volume"` // with the store's folder models, which all hosts mount and only read; a claim on Kubernetes
	Image  string `yaml:"image"`  // on Kubernetes: with a snapshot of the store, which each pod unpacks before it starts
}

// Group is an expert group that runs elsewhere.
type Group struct {
	Name      string    `yaml:"name"` // as in experts.group
	Backend   string    `yaml:"backend"`
	Replicas  int       `yaml:"replicas"`
	Scale     Scale     `yaml:"scale"`
	Resources Resources `yaml:"resources"`
	Units     []Units   `yaml:"units"` // that it serves
}

// Units are some experts of some layers, as in experts.group: all, a number or a range such as 0-3.
type Units struct {
	Layers  string `yaml:"layers"`
	Experts string `yaml:"experts"`
}

// Kube is what only Kubernetes needs to know.
type Kube struct {
	Secret              string `yaml:"secret"`     // of api-key, encryption-keys and redis-password
	Model               string `yaml:"model"`      // name in the store; empty = the embedded one
	StorageMB           int    `yaml:"storage_mb"` // of each pod's own volume
	IngressClass        string `yaml:"ingress_class"`
	IngressNamespace    string `yaml:"ingress_namespace"`    // of the controller, which calls the hosts
	MonitoringNamespace string `yaml:"monitoring_namespace"` // of Prometheus, which reads /metrics
	// Redis runs beside the hosts and keeps what they share; without a repository there is none.
	Redis Image `yaml:"redis"`
}

// Defaults are the values of FEATURES section 3.
func Defaults() Values {
	return Values{
		Name: "pimoe", Namespace: "pimoe-production", Environment: Production, Profile: Standard, Host: "pimoe.example.com",
		Image: Image{Repository: "ghcr.io/pimoe/pimoe", Tag: "latest"}, Replicas: 3, Scale: Scale{Min: 2, Max: 10, CPUPercent: 70},
		Resources: Resources{CPUs: 2, MemoryMB: 4096},
		Ports: Ports{
			HTTP: 8080, Inner: 18080, Admin: 8081, GRPC: 9000, Expert: 7070, Redis: 6379, Prometheus: 9090, Alertmanager: 9093, Grafana: 3000,
			Loki: 3100, OTLP: 4317,
		},
		Limits: Limits{BodyMB: 32, RequestSeconds: 30, RatePerMinute: 100},
		TLS:    TLS{Secret: "pimoe-tls", Expert: "pimoe-expert-tls"},
		Kube: Kube{
			Secret: "pimoe", StorageMB: 8192, IngressClass: "nginx", IngressNamespace: "ingress-nginx", MonitoringNamespace: "monitoring",
			Redis: Image{Repository: "redis", Tag: "7.4-alpine"},
		},
		Monitoring: Monitoring{ScrapeSeconds: 15, RetentionDays: 14},
		Proxy: Proxy{
			HTTP: 80, HTTPS: 443, Addresses: []string{"10.0.0.10"}, Hosts: []string{"10.0.0.11", "10.0.0.12", "10.0.0.13"},
		},
		Network: "10.89.71.0/24", Programs: "/usr/local/bin",
	}
}
