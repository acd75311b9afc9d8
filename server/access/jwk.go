package access

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/strictjson"
)

const (
	minSecret  = 32      // bytes of an HMAC key: below the hash's own size it is the weaker half
	minRSA     = 2048    // bits
	maxRSA     = 8192    // bits: checking takes time that grows with the square
	maxKeys    = 64      // of a set; providers publish two to six
	maxKeySet  = 1 << 20 // bytes of a set
	maxKeyName = 256     // bytes of a kid
)

// Algorithms are the signatures that tokens may have. "none" is none of them.
var Algorithms = []string{
	"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// Asymmetric are the algorithms whose keys may be published.
var Asymmetric = Algorithms[3:]

// key is one key with the algorithms it may check: its type alone decides, never a token.
type key struct {
	kid    string // empty = it has none
	algs   []string
	public crypto.PublicKey // *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey, or []byte
}

// KeySet is the keys that check signatures.
type KeySet struct{ keys []key }

// find is the one key for a token's kid and algorithm. A token without a kid has to fit exactly one key.
func (s KeySet) find(kid string, named bool, alg string) (any, error) {
	var found []key
	known := false
	for _, k := range s.keys {
		if named && k.kid != kid {
			continue
		}
		known = true
		if slices.Contains(k.algs, alg) {
			found = append(found, k)
		}
	}
	switch {
	case named && !known:
		return nil, errUnknownKey
	case len(found) == 0:
		return nil, refuse(ErrInvalid, "no key of this kid is for %s", alg)
	case len(found) > 1:
		return nil, refuse(ErrInvalid, "%d keys would do for a token without kid", len(found))
	}
	return found[0].public, nil
}

var errUnknownKey = refuse(ErrInvalid, "no key has the token's kid")

// SecretKey is a set with one HMAC secret.
func SecretKey(secret []byte, algs []string) (KeySet, error) {
	k := key{algs: hmacAlgs(secret, algs), public: slices.Clone(secret)}
	if len(k.algs) == 0 {
		return KeySet{}, fmt.Errorf("an HMAC secret of %d bytes is too short: want at least %d for HS256, 48 for HS384, 64 for HS512: %w", len(secret), minSecret, sdk.ErrInvalid)
	}
	if why := config.WeakSecret(string(secret)); why != "" {
		return KeySet{}, fmt.Errorf("the HMAC secret %s: %w", why, sdk.ErrInvalid)
	}
	return KeySet{[]key{k}}, nil
}

// hmacAlgs are those of algs that a secret is long enough for.
func hmacAlgs(secret []byte, algs []string) []string {
	return slices.DeleteFunc(slices.Clone(algs), func(a string) bool {
		least, ok := map[string]int{"HS256": 32, "HS384": 48, "HS512": 64}[a]
		return !ok || len(secret) < least
	})
}

// ParseKeySet reads a JSON Web Key Set (RFC 7517). Keys for other purposes, of other types and for algorithms that are
// not in algs are left out; a key that is meant and broken or weak refuses the whole set. A set that anybody could have
// read holds no secrets: symmetric and private keys refuse it, too.
func ParseKeySet(b []byte, algs []string) (KeySet, error) {
	set, err := parseKeySet(b, algs)
	if err != nil {
		return KeySet{}, fmt.Errorf("key set: %w: %w", sdk.ErrInvalid, err)
	}
	if len(set.keys) == 0 {
		return KeySet{}, fmt.Errorf("key set: no key for any of %s: %w", strings.Join(algs, ", "), sdk.ErrInvalid)
	}
	return set, nil
}

func parseKeySet(b []byte, algs []string) (KeySet, error) {
	if len(b) > maxKeySet {
		return KeySet{}, fmt.Errorf("larger than %d bytes", maxKeySet)
	}
	top, err := members(b)
	if err != nil {
		return KeySet{}, err
	}
	list, err := top["keys"].Array()
	if err != nil {
		return KeySet{}, err
	}
	if len(list) > maxKeys {
		return KeySet{}, fmt.Errorf("more than %d keys", maxKeys)
	}
	var set KeySet
	for i, v := range list {
		k, err := parseKeyOf(v.Raw(), algs)
		if err != nil {
			return KeySet{}, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if k == nil {
			continue
		}
		if slices.ContainsFunc(set.keys, func(o key) bool { return o.kid != "" && o.kid == k.kid }) {
			return KeySet{}, fmt.Errorf("keys[%d]: two keys have the same kid", i)
		}
		set.keys = append(set.keys, *k)
	}
	return set, nil
}

// members reads an object; duplicate names are refused.
func members(b []byte) (map[string]strictjson.Value, error) {
	list, err := strictjson.ParseObject(b)
	if err != nil {
		return nil, err
	}
	out := make(map[string]strictjson.Value, len(list))
	for _, m := range list {
		out[m.Name] = m.Value
	}
	return out, nil
}

// jwk is the members of one key, each read as text.
type jwk map[string]strictjson.Value

// text is a member; empty where there is none.
func (j jwk) text(name string) (string, error) {
	if !j[name].Exists() {
		return "", nil
	}
	return j[name].Text()
}

// bytes is a member in base64url; empty is refused.
func (j jwk) bytes(name string) ([]byte, error) {
	text, err := j.text(name)
	if err != nil {
		return nil, err
	}
	b, err := decodeSegment(text)
	if err != nil || len(b) == 0 {
		return nil, fmt.Errorf("%s: want base64url", name)
	}
	return b, nil
}

// parseKeyOf is one key; nil for one that is for something else.
func parseKeyOf(raw []byte, algs []string) (*key, error) {
	m, err := members(raw)
	if err != nil {
		return nil, err
	}
	j := jwk(m)
	var kty, use, alg, crv, kid string
	for _, f := range []struct {
		name string
		to   *string
	}{{"kty", &kty}, {"use", &use}, {"alg", &alg}, {"crv", &crv}, {"kid", &kid}} {
		if *f.to, err = j.text(f.name); err != nil {
			return nil, err
		}
	}
	if j["k"].Exists() || j["d"].Exists() || kty == "oct" {
		return nil, fmt.Errorf("a secret or private key in a set of public ones")
	}
	if len(kid) > maxKeyName {
		return nil, fmt.Errorf("kid: longer than %d bytes", maxKeyName)
	}
	if use != "" && use != "sig" || !verifies(j) {
		return nil, nil
	}
	fit := fitting(kty, crv)
	if alg != "" {
		fit = slices.DeleteFunc(fit, func(a string) bool { return a != alg })
	}
	k := &key{kid: kid, algs: slices.DeleteFunc(fit, func(a string) bool { return !slices.Contains(algs, a) })}
	if len(k.algs) == 0 {
		return nil, nil
	}
	switch kty {
	case "RSA":
		k.public, err = j.rsa()
	case "EC":
		k.public, err = j.ec(crv)
	default:
		k.public, err = j.ed25519()
	}
	return k, err
}

// verifies reports whether key_ops, where a key has it, lists verify.
func verifies(j jwk) bool {
	if !j["key_ops"].Exists() {
		return true
	}
	ops, err := j["key_ops"].Array()
	return err == nil && slices.ContainsFunc(ops, func(v strictjson.Value) bool { op, err := v.Text(); return err == nil && op == "verify" })
}

// curves are the curves of ECDSA with the one algorithm of each.
var curves = map[string]struct {
	alg   string
	curve elliptic.Curve
}{
	"P-256": {"ES256", elliptic.P256()}, "P-384": {"ES384", elliptic.P384()}, "P-521": {"ES512", elliptic.P521()},
}

// fitting are the algorithms of a type of key.
func fitting(kty, crv string) []string {
	switch c, ok := curves[crv]; {
	case kty == "RSA":
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case kty == "EC" && ok:
		return []string{c.alg}
	case kty == "OKP" && crv == "Ed25519":
		return []string{"EdDSA"}
	}
	return nil
}

func (j jwk) rsa() (*rsa.PublicKey, error) {
	n, err := j.bytes("n")
	if err != nil {
		return nil, err
	}
	e, err := j.bytes("e")
	if err != nil {
		return nil, err
	}
	k := &rsa.PublicKey{N: new(big.Int).SetBytes(n)}
	if bits := k.N.BitLen(); bits < minRSA || bits > maxRSA || k.N.Bit(0) == 0 {
		return nil, fmt.Errorf("n: an RSA modulus of %d bits: want an odd one of %d to %d", bits, minRSA, maxRSA)
	}
	exp := new(big.Int).SetBytes(e)
	if !exp.IsInt64() || exp.Int64() < 3 || exp.Int64() > 1<<31-1 || exp.Bit(0) == 0 {
		return nil, fmt.Errorf("e: want an odd exponent from 3 to 2^31-1")
	}
	k.E = int(exp.Int64())
	return k, nil
}

func (j jwk) ec(crv string) (*ecdsa.PublicKey, error) {
	x, err := j.bytes("x")
	if err != nil {
		return nil, err
	}
	y, err := j.bytes("y")
	if err != nil {
		return nil, err
	}
	curve := curves[crv].curve
	size := (curve.Params().BitSize + 7) / 8
	if len(x) != size || len(y) != size {
		return nil, fmt.Errorf("x, y: want %d bytes each", size)
	}
	k, err := ecdsa.ParseUncompressedPublicKey(curve, slices.Concat([]byte{4}, x, y)) // checks that the point is on the curve
	if err != nil {
		return nil, fmt.Errorf("x, y: no point of %s", crv)
	}
	return k, nil
}

func (j jwk) ed25519() (ed25519.PublicKey, error) {
	x, err := j.bytes("x")
	if err != nil {
		return nil, err
	}
	if len(x) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("x: want %d bytes", ed25519.PublicKeySize)
	}
	return x, nil
}

var segmentText = base64.RawURLEncoding.Strict()

// decodeSegment reads base64url without padding in its one spelling. Go's decoder skips line breaks, also when strict.
func decodeSegment(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("a line break in base64url")
	}
	return segmentText.DecodeString(s)
}
