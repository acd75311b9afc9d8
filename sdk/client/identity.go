package client

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/pimoe/pimoe/sdk/internal/bootstrap"
)

// Identity is how the host and its processes know each other: an authority that lives in the host's memory alone, the
// host's own certificate, and one for each process. Make it once per host. It is safe for concurrent use.
//
// The curve is P-256: go-plugin's own automatic certificates use P-521, whose keys take 35 ms at best on every start.
type Identity struct {
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	pem    []byte
	client tls.Certificate
}

// NewIdentity makes the authority and the host's certificate.
func NewIdentity() (*Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	t := template("PiMoE host authority")
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	id := &Identity{key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	if id.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	// The usages are disjoint: a process can't present its certificate as the host's.
	certPEM, keyPEM, _, err := id.issue("PiMoE host", x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	id.client, err = tls.X509KeyPair(certPEM, keyPEM)
	return id, err
}

// template is valid for far longer than any host runs, and from long before it began, so that a clock that is set has
// no effect: what ends a certificate's life is the end of the process that holds its key.
func template(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic("client: no randomness: " + err.Error()) // crypto/rand never fails on a running system
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.AddDate(-20, 0, 0), NotAfter: now.AddDate(50, 0, 0),
	}
}

func (id *Identity) issue(name string, use x509.ExtKeyUsage) (certPEM, keyPEM, der []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("identity: %w", err)
	}
	t := template(name)
	t.KeyUsage, t.ExtKeyUsage, t.DNSNames = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{use}, []string{bootstrap.ServerName}
	der, err = x509.CreateCertificate(rand.Reader, t, id.cert, &key.PublicKey, id.key)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("identity: %w", err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("identity: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), der, nil
}

// tlsFor accepts one server only: the process that was given this certificate.
func (id *Identity) tlsFor(der []byte) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(id.cert)
	return &tls.Config{
		Certificates: []tls.Certificate{id.client},
		RootCAs:      pool,
		ServerName:   bootstrap.ServerName,
		MinVersion:   tls.VersionTLS13,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !bytes.Equal(s.PeerCertificates[0].Raw, der) {
				return errors.New("the certificate is another process's")
			}
			return nil
		},
	}
}
