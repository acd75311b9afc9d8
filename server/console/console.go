// Package console is the web page that shows a host at work: chat, the map of experts, processes, times and what can be done to
// them. The page is plain HTML, CSS and JavaScript modules, part of the executable as they are: nothing is built, and nothing is
// fetched from elsewhere.
//
// server hands the files out under /console. The package refuses to know about HTTP and to hold anything of a host: the page gets
// all it shows from the API, with the rights of who looks at it.
package console

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"path"
)

//go:embed page
var page embed.FS

// Policy is the Content-Security-Policy of the page: scripts and styles are its own files only, and no text becomes markup.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Asset is one file of the page.
type Asset struct {
	Type string // Content-Type
	ETag string
	Body []byte // nobody changes it
}

// Index is the name of the page itself.
const Index = "index.html"

var types = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}

// assets are all files by name.
var assets = load()

func load() map[string]Asset {
	list, err := page.ReadDir("page")
	if err != nil {
		panic("console: " + err.Error())
	}
	out := map[string]Asset{}
	for _, f := range list {
		body, err := page.ReadFile("page/" + f.Name())
		if err != nil {
			panic("console: " + err.Error())
		}
		kind, known := types[path.Ext(f.Name())]
		if !known {
			panic(fmt.Sprintf("console: no type for %s", f.Name()))
		}
		sum := sha256.Sum256(body)
		out[f.Name()] = Asset{Type: kind, ETag: `"` + hex.EncodeToString(sum[:12]) + `"`, Body: body}
	}
	return out
}

// Get is the file of a name.
func Get(name string) (Asset, bool) {
	a, ok := assets[name]
	return a, ok
}
