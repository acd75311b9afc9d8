package server

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
)

// lastingFor is how long a browser or a CDN may take an answer without asking again: long enough to spare a page's reload,
// short enough that a new version of the server shows at once to people.
const lastingFor = "max-age=60"

// validated adds what caches on the way need to an answer that lasts, and shortens it to 304 for whoever has it already.
// Where a credential is asked for, it is for its asker's own cache alone.
func (x *exchange) validated(rep *reply) *reply {
	if !rep.lasting || rep.status != http.StatusOK {
		return rep
	}
	sum := sha256.Sum256(rep.body)
	tag := `W/"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"` // the same text may come compressed, in other bytes
	out := *rep
	out.header = map[string]string{"ETag": tag, "Cache-Control": "private, " + lastingFor, "Vary": "Authorization, Cookie"}
	if x.route.rule.Open() || x.s.anonymity(x.route.admin) == anyUser {
		out.header["Cache-Control"] = "public, " + lastingFor
	}
	for k, v := range rep.header {
		out.header[k] = v
	}
	if matches(x.req.known, tag) {
		out.status, out.body = http.StatusNotModified, nil
	}
	return &out
}

// matches compares If-None-Match with a tag, weakly, as RFC 9110 asks.
func matches(known, tag string) bool {
	if strings.TrimSpace(known) == "*" {
		return true
	}
	for t := range strings.SplitSeq(known, ",") {
		if strings.TrimPrefix(strings.TrimSpace(t), "W/") == strings.TrimPrefix(tag, "W/") {
			return true
		}
	}
	return false
}
