package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
)

// secret is an API key as its hash: keys of any length compare in the same time, and the key itself is in no struct
// that a log could print.
type secret struct{ hash [sha256.Size]byte }

func newSecret(key string) *secret { return &secret{hash: sha256.Sum256([]byte(key))} }

// admit checks an Authorization header of the form "Bearer KEY". A nil secret admits everybody.
func (s *secret) admit(header string) error {
	if s == nil {
		return nil
	}
	if header == "" {
		return &fault{status: http.StatusUnauthorized, code: "missing_api_key", message: "an API key is required: send the header Authorization: Bearer KEY"}
	}
	scheme, key, _ := strings.Cut(header, " ")
	hash := sha256.Sum256([]byte(strings.TrimSpace(key)))
	if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(hash[:], s.hash[:]) != 1 {
		return &fault{status: http.StatusUnauthorized, code: "invalid_api_key", message: "the API key is wrong"}
	}
	return nil
}
