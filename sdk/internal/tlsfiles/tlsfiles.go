// Package tlsfiles holds the certificate, key and authorities of one end of a connection between a host and an expert
// process on another machine, and follows their files: a renewed certificate is used by the next connection, and running
// ones go on with the one that they began with.
//
// sdk/client and sdk/serve use it. Both ends prove who they are, always: there is no setting without. It starts no
// goroutine, it looks at the files when somebody connects, once a second at most. It refuses a certificate that has expired,
// that the key does not belong to, or whose key others can write; while the new files are such, the old ones stay in use.
package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

const (
	lookEvery = time.Second
	maxFile   = 1 << 20 // bytes
)

// Files are PEM files.
type Files struct {
	Cert string // this end's certificate first, then what leads to its authority
	Key  string // of that certificate
	CA   string // the authorities that the other end's certificate must come from
}

// On reports whether any is named.
func (f Files) On() bool { return f != Files{} }

// Store is what the files had when they were last good. It is safe for concurrent use.
type Store struct {
	files Files
	note  func(string)
	now   func() time.Time

	mu     sync.Mutex // guards all below
	looked time.Time
	seen   [3]os.FileInfo
	pair   tls.Certificate
	pool   *x509.CertPool
}

// Open reads the files. note, if not nil, takes a line for people when they have changed.
func Open(f Files, note func(string)) (*Store, error) {
	if f.Cert == "" || f.Key == "" || f.CA == "" {
		return nil, fmt.Errorf("tls: a certificate, its key and the authorities of the other end are needed, all three: %w", sdk.ErrInvalid)
	}
	if note == nil {
		note = func(string) {}
	}
	s := &Store{files: f, note: note, now: time.Now}
	s.looked, s.seen = s.now(), s.look()
	return s, s.read()
}

// Server is for a listener: each connection gets what is in force when it begins, and has to show a certificate.
func (s *Store) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			pair, pool := s.current()
			return &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{pair},
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
			}, nil
		},
	}
}

// Client is for one connection to a server whose certificate must be for the name.
func (s *Store) Client(name string) *tls.Config {
	pair, pool := s.current()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{pair},
		RootCAs: pool, ServerName: name,
	}
}

// current looks whether the files have changed and returns what is in force.
func (s *Store) current() (tls.Certificate, *x509.CertPool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); now.Sub(s.looked) >= lookEvery || now.Before(s.looked) {
		s.looked = now
		if seen := s.look(); !same(seen, s.seen) {
			s.seen = seen
			before := s.pair.Leaf
			switch err := s.read(); {
			case err != nil:
				s.note("certificate refused, the old one stays in use: " + err.Error())
			case !before.Equal(s.pair.Leaf):
				s.note("certificate renewed, it ends on " + s.pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
			}
		}
	}
	return s.pair, s.pool
}

func (s *Store) look() (out [3]os.FileInfo) {
	for i, path := range []string{s.files.Cert, s.files.Key, s.files.CA} {
		out[i], _ = os.Stat(path) // a file that is not there is told of when it is read
	}
	return out
}

func same(a, b [3]os.FileInfo) bool {
	for i := range a {
		switch {
		case (a[i] == nil) != (b[i] == nil):
			return false
		case a[i] != nil && (a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime()) || !os.SameFile(a[i], b[i])):
			return false
		}
	}
	return true
}

// read takes over what the files have, all of it or nothing. The caller holds mu, or nobody else knows the store.
func (s *Store) read() error {
	chain, _, err := readFile(s.files.Cert)
	if err != nil {
		return err
	}
	key, st, err := readFile(s.files.Key)
	if err != nil {
		return err
	}
	defer clear(key) // what tls keeps is its own copy
	if st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("tls key %s: others can write it (mode %04o): %w", s.files.Key, st.Mode().Perm(), sdk.ErrInvalid)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return fmt.Errorf("tls certificate %s and key %s: %w: %w", s.files.Cert, s.files.Key, err, sdk.ErrInvalid)
	}
	if s.now().After(pair.Leaf.NotAfter) {
		return fmt.Errorf("tls certificate %s: it has expired on %s: %w", s.files.Cert, pair.Leaf.NotAfter.UTC().Format(time.RFC3339), sdk.ErrInvalid)
	}
	authorities, _, err := readFile(s.files.CA)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authorities) {
		return fmt.Errorf("tls authorities %s: no certificate in it: %w", s.files.CA, sdk.ErrInvalid)
	}
	s.pair, s.pool = pair, pool
	return nil
}

func readFile(path string) ([]byte, os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("tls: %w: %w", err, sdk.ErrInvalid)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("tls: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, nil, fmt.Errorf("tls: read %s: %w", path, err)
	}
	return b, st, nil
}
