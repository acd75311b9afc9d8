package access

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// An API key is "pimoe_ID_SECRETSUM": ID, which lists and logs show, is 40 random bits, SECRET is 256, and SUM is a
// checksum of all before it, so that a scanner of leaked secrets, or this server, can tell a key from a lookalike
// without asking anybody. All three are lower-case base32, which no encoding of URLs or shells touches.
const (
	keyPrefix = "pimoe_"
	idLen     = 8
	secretLen = 52
	sumLen    = 7
	keyLen    = len(keyPrefix) + idLen + 1 + secretLen + sumLen
)

var keyText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newKey makes a key.
func newKey() (id, key string) {
	var b [5 + 32]byte
	rand.Read(b[:]) // never fails
	id = keyText.EncodeToString(b[:5])
	body := keyPrefix + id + "_" + keyText.EncodeToString(b[5:])
	return id, body + keySum(body)
}

func keySum(body string) string {
	return keyText.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(body))))
}

// looksLikeKey reports whether a credential claims to be one of our keys.
func looksLikeKey(s string) bool { return strings.HasPrefix(s, keyPrefix) }

// parseKey is the id of a well-formed key.
func parseKey(key string) (id string, ok bool) {
	if len(key) != keyLen || !looksLikeKey(key) {
		return "", false
	}
	body, sum := key[:keyLen-sumLen], key[keyLen-sumLen:]
	id, secret := body[len(keyPrefix):len(keyPrefix)+idLen], body[len(body)-secretLen:]
	if body[len(keyPrefix)+idLen] != '_' || !canonical(id) || !canonical(secret) || keySum(body) != sum {
		return "", false
	}
	return id, true
}

// canonical reports whether text is what encoding its own bytes gives: one key has one spelling.
func canonical(text string) bool {
	b, err := keyText.DecodeString(text)
	return err == nil && keyText.EncodeToString(b) == text
}
