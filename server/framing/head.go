package framing

import (
	"bytes"
	"strings"
)

// head is what of a head decides where its request ends and whom it is for.
type head struct {
	get, bodiless     bool   // the method; bodiless ones have no body that everybody reads
	old               bool   // HTTP/1.0
	authority         []byte // of a target in absolute form
	host              []byte
	hosts, lengths    int
	length            uint64
	encodings         int
	chunked           bool
	upgrade           bool
	connectionUpgrade bool
}

func (h *head) reset() {
	*h = head{authority: h.authority[:0], host: h.host[:0]} // the copies' memory is used again
}

// bodiless are methods whose requests have no body by definition. Those of GET and HEAD are read like all others, and
// nobody looks at them.
var bodiless = []string{"TRACE", "CONNECT"}

// first judges the request line.
func (h *head) first(line []byte) Refusal {
	method, rest, ok := bytes.Cut(line, []byte{' '})
	target, version, ok2 := bytes.Cut(rest, []byte{' '})
	switch {
	case !ok || !ok2 || len(target) == 0:
		return "the request line is not METHOD TARGET VERSION with one space between"
	case len(method) > 32 || !isToken(method):
		return "the method is no token"
	case string(version) != "HTTP/1.1" && string(version) != "HTTP/1.0":
		return "the version is neither HTTP/1.1 nor HTTP/1.0"
	}
	h.old = string(version) == "HTTP/1.0"
	h.get = string(method) == "GET"
	for _, m := range bodiless {
		h.bodiless = h.bodiless || string(method) == m
	}
	return h.target(target, string(method) == "OPTIONS")
}

// target judges a request's target, and keeps the name that one in absolute form has.
func (h *head) target(t []byte, options bool) Refusal {
	path, _, _ := bytes.Cut(t, []byte{'?'})
	for i, b := range t {
		switch {
		case b <= ' ' || b >= 0x7f || b == '#' || i < len(path) && strings.IndexByte("\\<>\"^`{}", b) >= 0: // browsers leave those in queries
			return "the target has a character that must be encoded"
		case b == '%' && i < len(path) && (i+2 >= len(t) || hexValue(t[i+1]) < 0 || hexValue(t[i+2]) < 0 || t[i+1] == '0' && t[i+2] == '0'):
			return "the target has a wrong percent encoding"
		}
	}
	if options && string(t) == "*" {
		return ""
	}
	if scheme, rest, ok := bytes.Cut(path, []byte("://")); ok && len(path) > 0 && path[0] != '/' {
		if s := strings.ToLower(string(scheme)); s != "http" && s != "https" {
			return "the target's scheme is neither http nor https"
		}
		authority := rest
		if i := bytes.IndexByte(rest, '/'); i >= 0 {
			authority, path = rest[:i], rest[i:]
		} else {
			path = nil
		}
		if !isHost(authority) {
			return "the target names no host"
		}
		h.authority = append(h.authority, authority...)
	} else if len(path) == 0 || path[0] != '/' {
		return "the target is neither a path nor an absolute URL"
	}
	return dots(path)
}

var decoded = strings.NewReplacer("%2e", ".", "%2E", ".", "%2f", "/", "%2F", "/", "%5c", "/", "%5C", "/")

// dots refuses paths that mean another one: some resolve them, some don't.
func dots(path []byte) Refusal {
	if bytes.IndexByte(path, '.') < 0 && bytes.IndexByte(path, '%') < 0 {
		return ""
	}
	for segment := range strings.SplitSeq(decoded.Replace(string(path)), "/") {
		if segment == "." || segment == ".." {
			return "the target has dot segments"
		}
	}
	return ""
}

// field judges one header line.
func (h *head) field(line []byte) Refusal {
	if line[0] == ' ' || line[0] == '\t' {
		return "a header line is folded"
	}
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return "a header line has no name and colon"
	}
	name, value := line[:colon], line[colon+1:]
	if !isToken(name) {
		return "a header's name is no token"
	}
	for _, b := range value {
		if b < ' ' && b != '\t' || b == 0x7f {
			return "a header's value has a control character"
		}
	}
	value = bytes.Trim(value, " \t")
	switch len(name) { // most headers are none of these
	case len("Host"):
		if bytes.EqualFold(name, []byte("Host")) {
			h.hosts++
			h.host = append(h.host[:0], value...)
		}
	case len("Upgrade"):
		if bytes.EqualFold(name, []byte("Upgrade")) {
			h.upgrade = h.upgrade || bytes.EqualFold(value, []byte("websocket"))
		}
	case len("Connection"):
		if bytes.EqualFold(name, []byte("Connection")) {
			h.connection(value)
		}
	case len("Content-Length"):
		if bytes.EqualFold(name, []byte("Content-Length")) {
			return h.contentLength(value)
		}
	case len("Transfer-Encoding"):
		if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
			h.encodings++
			if h.chunked = bytes.EqualFold(value, []byte("chunked")); !h.chunked {
				return "the transfer encoding is not chunked alone"
			}
		}
	case len("Expect"):
		if bytes.EqualFold(name, []byte("Expect")) && !bytes.EqualFold(value, []byte("100-continue")) {
			return "the expectation is not 100-continue"
		}
	}
	return ""
}

func (h *head) connection(value []byte) {
	for option := range bytes.SplitSeq(value, []byte{','}) {
		h.connectionUpgrade = h.connectionUpgrade || bytes.EqualFold(bytes.Trim(option, " \t"), []byte("upgrade"))
	}
}

func (h *head) contentLength(value []byte) Refusal {
	if h.lengths++; h.lengths > 1 {
		return "there is more than one Content-Length"
	}
	if len(value) == 0 || len(value) > 18 || len(value) > 1 && value[0] == '0' {
		return "Content-Length is no number of bytes"
	}
	for _, b := range value {
		if b < '0' || b > '9' {
			return "Content-Length is no number of bytes"
		}
		h.length = h.length*10 + uint64(b-'0')
	}
	return ""
}

// whole judges a head at its end.
func (h *head) whole() Refusal {
	switch {
	case h.lengths > 0 && h.encodings > 0:
		return "Content-Length and Transfer-Encoding contradict each other"
	case h.encodings > 1:
		return "there is more than one Transfer-Encoding"
	case h.encodings > 0 && h.old:
		return "HTTP/1.0 has no Transfer-Encoding"
	case h.bodiless && (h.chunked || h.length > 0):
		return "a request of this method has no body"
	case h.hosts > 1 || h.hosts == 0 && !h.old:
		return "there is not exactly one Host"
	case h.hosts == 1 && !isHost(h.host):
		return "Host is no host"
	case len(h.authority) > 0 && h.hosts == 1 && !bytes.EqualFold(h.authority, h.host):
		return "Host and target name different hosts"
	}
	return ""
}

// isToken reports whether all bytes are those of tokens (RFC 9110 5.6.2).
func isToken(b []byte) bool {
	for _, c := range b {
		if !tokens[c] {
			return false
		}
	}
	return len(b) > 0
}

// isHost reports whether b is a name or an address with or without a port.
func isHost(b []byte) bool {
	for _, c := range b {
		if !hosts[c] {
			return false
		}
	}
	name, port := b, []byte(nil)
	if i := bytes.LastIndexByte(b, ':'); i >= 0 && i > bytes.LastIndexByte(b, ']') {
		if name, port = b[:i], b[i+1:]; len(port) == 0 || len(port) > 5 || bytes.Trim(port, "0123456789") != nil {
			return false
		}
	}
	if len(name) == 0 || len(name) > 255 {
		return false
	}
	if name[0] == '[' {
		return len(name) > 2 && bytes.IndexByte(name, ']') == len(name)-1 && bytes.LastIndexByte(name, '[') == 0
	}
	return bytes.IndexAny(name, "[]:") < 0
}

// tokens and hosts say which bytes may be in each.
var tokens, hosts = table("!#$%&'*+-.^_`|~"), table("-._:[]")

func table(more string) (t [256]bool) {
	for c := range t {
		t[c] = c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte(more, byte(c)) >= 0
	}
	return t
}
