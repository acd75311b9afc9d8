package deploy

// For is the defaults of an environment and a profile: production and standard are Defaults, the others change what their
// lines here say and nothing else.
func For(e Environment, p Profile) Values {
	v := Defaults()
	v.Environment, v.Profile = e, p
	switch e {
	case Development:
		v.Namespace, v.Host, v.Replicas, v.Scale = "pimoe-development", "localhost", 1, Scale{Min: 1, Max: 1, CPUPercent: 70}
		v.Resources = Resources{CPUs: 1, MemoryMB: 2048}
		v.Limits.RequestSeconds, v.Limits.RatePerMinute = 600, 6000
		v.besideOneHost()
	case Staging:
		v.Namespace, v.Host, v.Replicas, v.Scale = "pimoe-staging", "staging.pimoe.example.com", 2, Scale{Min: 1, Max: 3, CPUPercent: 70}
		v.Proxy.Hosts = v.Proxy.Hosts[:2]
	case Production:
	}
	switch p {
	case Edge:
		v.Replicas, v.Scale = 1, Scale{Min: 1, Max: 1, CPUPercent: 70}
		v.Resources = Resources{CPUs: 1, MemoryMB: 512}
		v.besideOneHost()
	case Serverless:
		v.Scale.Min, v.Store.Volume = 0, "pimoe-models"
		v.Replicas = 1 // the first one; more come with load where the platform scales
		v.besideOneHost()
	case MultiRegion:
		v.Region = "eu-central"
	case Standard:
	}
	return v
}

// besideOneHost puts nginx on the machine of the only host.
func (v *Values) besideOneHost() {
	v.Proxy.Addresses, v.Proxy.Hosts = []string{"127.0.0.1"}, []string{"127.0.0.1"}
}

// Environments lists what there is.
func Environments() []Environment { return []Environment{Development, Staging, Production} }

// Profiles lists the kinds of places.
func Profiles() []Profile { return []Profile{Standard, Edge, Serverless, MultiRegion} }
