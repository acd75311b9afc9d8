// Package certs holds the certificate of a TLS listener and follows its files: a renewed certificate is used by the next
// connection, and running ones go on with the one that they began with. server uses it.
//
// The package starts no goroutine: it looks at the files when somebody connects, once a second at most. It refuses a
// certificate that has expired, that the key does not belong to, or whose key others can write; while the new files are
// such, the old certificate stays, and the log says so.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
)

const (
	lookEvery = time.Second
	maxFile   = 1 << 20 // bytes; a bundle of all public authorities has a quarter of it
)

// suites are those of TLS 1.2 with forward secrecy and an authenticated cipher; TLS 1.3 has no others.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// Store is the certificate in force. Its methods may be called from any goroutine.
type Store struct {
	files config.TLS
	log   *slog.Logger
	now   func() time.Time

	mu     sync.Mutex // guards all below
	looked time.Time
	seen   [3]identity // of the files at the last try
	tls    *tls.Config
	leaf   *x509.Certificate
}

// identity is what changes when a file is written or replaced.
type identity struct {
	size     int64
	modified time.Time
	info     os.FileInfo
}

func (a identity) same(b identity) bool {
	return a.size == b.size && a.modified.Equal(b.modified) && (a.info == nil) == (b.info == nil) && (a.info == nil || os.SameFile(a.info, b.info))
}

// Open reads the files. now is the clock by which certificates expire.
func Open(files config.TLS, log *slog.Logger, now func() time.Time) (*Store, error) {
	s := &Store{files: files, log: log, now: now}
	s.looked, s.seen = now(), s.identities()
	return s, s.read()
}

// Config is for the listener: each connection gets the certificate that is in force when it begins.
func (s *Store) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, // of the config for each client, too; this one is for readers
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.follow()
			return s.tls, nil
		},
	}
}

// Expires is when the certificate in force ends.
func (s *Store) Expires() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.follow()
	return s.leaf.NotAfter
}

// Reload reads the files now, as a person asks for who has just written them.
func (s *Store) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked, s.seen = s.now(), s.identities()
	return s.renew()
}

// follow looks whether the files have changed. mu is held.
func (s *Store) follow() {
	now := s.now()
	if d := now.Sub(s.looked); d >= 0 && d < lookEvery {
		return
	}
	s.looked = now
	seen := s.identities()
	for i := range seen {
		if !seen[i].same(s.seen[i]) {
			s.seen = seen
			_ = s.renew() // it has been logged, and the old certificate stays
			return
		}
	}
}

func (s *Store) renew() error {
	before := s.leaf
	if err := s.read(); err != nil {
		s.log.Error("certificate refused, the old one stays", "error", err.Error(), "expires", before.NotAfter.UTC().Format(time.RFC3339))
		return err
	}
	if !before.Equal(s.leaf) {
		s.log.Info("certificate renewed", "serial", s.leaf.SerialNumber.Text(16), "expires", s.leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

func (s *Store) identities() (out [3]identity) {
	for i, path := range []string{s.files.CertFile, s.files.KeyFile, s.files.ClientCAFile} {
		if path == "" {
			continue
		}
		if st, err := os.Stat(path); err == nil {
			out[i] = identity{st.Size(), st.ModTime(), st}
		}
	}
	return out
}

// read takes over what the files have, all of it or nothing.
func (s *Store) read() error {
	chain, _, err := readFile("server.tls.cert_file", s.files.CertFile)
	if err != nil {
		return err
	}
	key, mode, err := readFile("server.tls.key_file", s.files.KeyFile)
	if err != nil {
		return err
	}
	defer clear(key) // what tls keeps is its own copy
	if mode&0o022 != 0 {
		return fmt.Errorf("server.tls.key_file: %s can be written by others (mode %04o): %w", s.files.KeyFile, mode, sdk.ErrInvalid)
	}
	if mode&0o004 != 0 {
		s.log.Warn("server.tls.key_file can be read by others: chmod 600 keeps it to you", "file", s.files.KeyFile)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return fmt.Errorf("server.tls.cert_file and key_file: %w: %w", err, sdk.ErrInvalid)
	}
	if s.now().After(pair.Leaf.NotAfter) {
		return fmt.Errorf("server.tls.cert_file: the certificate has expired on %s: %w", pair.Leaf.NotAfter.UTC().Format(time.RFC3339), sdk.ErrInvalid)
	}
	c := &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, CipherSuites: suites,
		NextProtos: []string{"http/1.1"}, // fasthttp speaks nothing else
		Time:       s.now,
	}
	if s.files.ClientCAFile != "" {
		if err := s.askClients(c); err != nil {
			return err
		}
	}
	s.tls, s.leaf = c, pair.Leaf
	return nil
}

func (s *Store) askClients(c *tls.Config) error {
	pem, _, err := readFile("server.tls.client_ca_file", s.files.ClientCAFile)
	if err != nil {
		return err
	}
	if c.ClientCAs = x509.NewCertPool(); !c.ClientCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("server.tls.client_ca_file: %s has no certificate: %w", s.files.ClientCAFile, sdk.ErrInvalid)
	}
	c.ClientAuth = tls.VerifyClientCertIfGiven
	if s.files.ClientAuth == "require" {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return nil
}

func readFile(setting, path string) (content []byte, mode fs.FileMode, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w: %w", setting, err, sdk.ErrInvalid)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil {
		content, err = io.ReadAll(io.LimitReader(f, maxFile))
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", setting, err)
	}
	return content, st.Mode().Perm(), nil
}

// Names are what a client's certificate says whom it is for: its URIs, DNS names, mail addresses and common name.
func Names(c *x509.Certificate) []string {
	var names []string
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	names = append(append(names, c.DNSNames...), c.EmailAddresses...)
	if c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	return names
}
