// Package bootstrap is the document that a plugin process finds on an inherited descriptor: everything it must know
// before it can be spoken to. It holds a private key, so it travels in an anonymous file and never in the environment,
// in an argument or on disk.
//
// sdk/client writes it, sdk/serve reads it; sdk/proto/README.md describes it for other languages. The package refuses
// a document of another version.
package bootstrap

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/plane"
)

// The handshake: what a plugin process finds in its environment, and what it answers on its standard output.
const (
	// Protocol is the version of everything in sdk/proto: services, bootstrap document, plane. A host refuses a plugin
	// that speaks another one.
	Protocol = 1
	// CookieKey and CookieValue tell a plugin that a PiMoE host started it. This is no security measure; it lets a
	// program that is started by hand say what it is.
	CookieKey   = "PIMOE_PLUGIN"
	CookieValue = "serve-experts-and-routers"
	// FDKey names the environment variable with the number of the descriptor that holds the document.
	FDKey = "PIMOE_BOOTSTRAP_FD"
	// ServerName is the name in every plugin's certificate.
	ServerName = "plugin.pimoe.internal"
)

// maxDocument bounds what is read: keys and certificates are 3 KiB, and a process has at most a few thousand shards.
const maxDocument = 1 << 20

// Document is the bootstrap document.
type Document struct {
	Protocol  int    `json:"protocol"`
	Kind      string `json:"kind"`               // what the host expects: "expert", "router" or "" for either
	Transport string `json:"transport"`          // "shm" or "grpc"
	Plane     *Plane `json:"plane,omitempty"`    // with "shm"
	Shards    []int  `json:"shards,omitempty"`   // descriptor numbers, read-only files with weights
	Lifeline  int    `json:"lifeline"`           // descriptor of a pipe: its end means that the host is gone
	Key       string `json:"key"`                // PEM, P-256, of the process's own certificate
	Cert      string `json:"certificate"`        // PEM, to serve with
	ClientCA  string `json:"client_certificate"` // PEM, the authority that the host's certificate must come from
}

// Plane tells where the shared memory is.
type Plane struct {
	Version  int `json:"version"`
	Requests int `json:"requests"` // descriptor number
	Results  int `json:"results"`  // descriptor number
	plane.Layout
	Cores []int `json:"cores,omitempty"` // the core that each lane is bound to; none = unbound
}

// Write puts the document into an anonymous file, positioned at its start.
func Write(d Document, dir string) (*os.File, error) {
	b, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	f, err := anonymous("pimoe-bootstrap", dir)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return f, nil
}

// Read reads the document that this process inherited and closes its descriptor.
func Read() (Document, error) {
	var d Document
	text := os.Getenv(FDKey)
	fd, err := strconv.ParseUint(text, 10, 20)
	if err != nil || fd < 3 {
		return d, fmt.Errorf("bootstrap: %s=%q is no descriptor: %w", FDKey, text, sdk.ErrInvalid)
	}
	f := os.NewFile(uintptr(fd), "bootstrap")
	if f == nil {
		return d, fmt.Errorf("bootstrap: descriptor %d is not open: %w", fd, sdk.ErrInvalid)
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxDocument))
	if err != nil {
		return d, fmt.Errorf("bootstrap: %w", err)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("bootstrap: %w", err)
	}
	if d.Protocol != Protocol {
		return d, fmt.Errorf("bootstrap: the host speaks protocol %d, this plugin %d: %w", d.Protocol, Protocol, sdk.ErrUnsupported)
	}
	return d, nil
}
