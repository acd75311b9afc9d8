package serve

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/pimoe/pimoe/sdk/internal/bootstrap"
)

// tlsFrom makes the server's configuration: this process's own certificate, and no client but the host's.
func tlsFrom(doc bootstrap.Document) (func() (*tls.Config, error), error) {
	cert, err := tls.X509KeyPair([]byte(doc.Cert), []byte(doc.Key))
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(doc.ClientCA)) {
		return nil, fmt.Errorf("certificate: the host's authority can't be read")
	}
	c := &tls.Config{
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		MinVersion:   tls.VersionTLS13,
	}
	return func() (*tls.Config, error) { return c, nil }, nil
}
