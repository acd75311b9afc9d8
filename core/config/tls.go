package config

// TLS is the public listener's certificate, and whether clients need one. The files are read at the start and when they
// change.
type TLS struct {
	CertFile string `koanf:"cert_file"` // PEM, the server's certificate first; empty (default) = HTTP
	KeyFile  string `koanf:"key_file"`  // PEM
	// ClientCAFile has the authorities that sign clients' certificates.
	ClientCAFile string `koanf:"client_ca_file"`
	// ClientAuth is "none" (default), "request": a certificate that a client sends must be valid, or "require": no
	// connection without one.
	ClientAuth string `koanf:"client_auth"`
}

// On reports whether the public listener speaks TLS.
func (t TLS) On() bool { return t.CertFile != "" }

func (v *validator) tls(t TLS) {
	if !t.On() {
		for key, set := range map[string]bool{"key_file": t.KeyFile != "", "client_ca_file": t.ClientCAFile != "", "client_auth": t.ClientAuth != "none" && t.ClientAuth != ""} {
			if set {
				v.bad("server.tls."+key, "", "server.tls.cert_file to be set, too")
			}
		}
		return
	}
	if t.KeyFile == "" {
		v.bad("server.tls.key_file", "(empty)", "the file with the key of server.tls.cert_file")
	}
	if asks := t.ClientAuth != "none"; asks != (t.ClientCAFile != "") {
		v.bad("server.tls.client_ca_file", orEmpty(t.ClientCAFile), "a file with server.tls.client_auth request or require, and none without")
	}
}
