// Package seal encrypts records at rest: what a database, a file or a shared cache keeps of requests and answers. A record
// is bound to its purpose and its context, such as tenant and record key, so that it can't be moved to another place or
// another tenant. The keys are a file: the first one seals, all of them open, which is how keys are rotated.
//
// server/jobs, the caches and server/cmd/pimoe use it. A nil *Box is encryption that is off: it keeps records as they are,
// marked as such, and refuses sealed ones. A Box with keys refuses records that are not sealed, or whoever can write the
// file could put some in; Reseal alone takes them, for whoever turns encryption on. It refuses to keep a key in an error or
// a log, and knows nothing of what it seals. It does not protect from an older record put back in its own place, and it
// does not hide how long a record is.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pimoe/pimoe/core/config"
)

// What the first byte of a record says of the rest.
const (
	formatPlain  = 0 // the record itself
	formatSealed = 1 // length of the key's id, id, salt, nonce, AES-256-GCM of the record, tag
)

const (
	saltSize  = 16
	nonceSize = 12
	tagSize   = 16
)

// The classes of errors of Open and Reseal.
var (
	// ErrKey says that the key that opens a record is not at hand; the error names it.
	ErrKey = errors.New("the key of the record is missing")
	// ErrBroken says that a record is not what was sealed for this purpose and context.
	ErrBroken = errors.New("the record is damaged, or belongs elsewhere")
	// ErrPlain says that a record is not sealed although encryption is on.
	ErrPlain = errors.New("the record is not encrypted, and encryption is on")
)

// Box seals and opens records; nil = encryption is off. It may be used by several goroutines at once.
type Box struct {
	keys []key // the first one seals
}

// Load reads the key file that the configuration names; nil where it names none.
func Load(cfg config.Encryption) (*Box, error) {
	if cfg.KeyFile == "" {
		return nil, nil
	}
	keys, err := readKeys(cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("encryption.key_file: %w", err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("encryption.key_file: %s has no key; make one with: pimoe encryption new-key", cfg.KeyFile)
	}
	return &Box{keys: keys}, nil
}

// On reports whether records are encrypted.
func (b *Box) On() bool { return b != nil }

// KeyID names the key that seals; empty with encryption off.
func (b *Box) KeyID() string {
	if b == nil {
		return ""
	}
	return b.keys[0].id
}

// Seal encrypts a record for a purpose, such as "jobs.result", and a context, which names the place where it is kept. The
// same two open it. The result is new memory; sealing twice gives two different records.
func (b *Box) Seal(purpose string, context, plain []byte) []byte {
	if b == nil {
		return append([]byte{formatPlain}, plain...)
	}
	k := b.keys[0]
	out := make([]byte, 0, 2+len(k.id)+saltSize+nonceSize+len(plain)+tagSize)
	out = append(out, formatSealed, byte(len(k.id)))
	out = append(out, k.id...)
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails
	out = append(out, salt...)
	return k.aead(purpose, salt).Seal(out, nil, plain, bound(k.id, purpose, context))
}

// Open is the record that was sealed for this purpose and context. The result is new memory.
func (b *Box) Open(purpose string, context, sealed []byte) ([]byte, error) {
	plain, _, err := b.open(purpose, context, sealed)
	if err == nil && b.On() && sealed[0] == formatPlain {
		return nil, fmt.Errorf("open %s: %w", purpose, ErrPlain)
	}
	return plain, err
}

// Reseal gives a record in the form in which Seal would write it now, and whether that is another than it has: it was sealed
// by a key that is not the first one any more, or not at all.
func (b *Box) Reseal(purpose string, context, sealed []byte) ([]byte, bool, error) {
	plain, by, err := b.open(purpose, context, sealed)
	if err != nil {
		return nil, false, err
	}
	if !b.On() || by == b.keys[0].id {
		return sealed, false, nil
	}
	return b.Seal(purpose, context, plain), true, nil
}

// open also tells the id of the key; empty for a record that was not sealed.
func (b *Box) open(purpose string, context, sealed []byte) (plain []byte, by string, err error) {
	broken := fmt.Errorf("open %s: %w", purpose, ErrBroken)
	if len(sealed) == 0 {
		return nil, "", broken
	}
	switch sealed[0] {
	case formatPlain:
		return append([]byte{}, sealed[1:]...), "", nil
	case formatSealed:
	default:
		return nil, "", broken
	}
	id, salt, rest, ok := parse(sealed[1:])
	if !ok {
		return nil, "", broken
	}
	k := b.find(id)
	if k == nil {
		return nil, "", fmt.Errorf("open %s: encryption.key_file has no key %q, with which it was sealed: %w", purpose, id, ErrKey)
	}
	if plain, err = k.aead(purpose, salt).Open(nil, nil, rest, bound(id, purpose, context)); err != nil {
		return nil, "", broken
	}
	return plain, id, nil
}

// parse splits a sealed record behind its first byte.
func parse(b []byte) (id string, salt, rest []byte, ok bool) {
	if len(b) < 1 {
		return "", nil, nil, false
	}
	n := int(b[0])
	if b = b[1:]; len(b) < n+saltSize+nonceSize+tagSize || !keyID.Match(b[:n]) {
		return "", nil, nil, false
	}
	return string(b[:n]), b[n : n+saltSize], b[n+saltSize:], true
}

func (b *Box) find(id string) *key {
	if b == nil {
		return nil
	}
	for i := range b.keys {
		if b.keys[i].id == id {
			return &b.keys[i]
		}
	}
	return nil
}

// aead is the cipher of one record. Each has a key of its own, so that no number of records comes near the bound of random
// nonces of one key (2^32).
func (k *key) aead(purpose string, salt []byte) cipher.AEAD {
	sub, err := hkdf.Key(sha256.New, k.secret, salt, "pimoe seal "+purpose, keySize)
	if err != nil {
		panic("seal: a key of 32 bytes can't be derived")
	}
	block, err := aes.NewCipher(sub)
	if err != nil {
		panic("seal: a key of 32 bytes is no AES key")
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("seal: AES has no GCM")
	}
	return aead
}

// bound is the additional data of a record: what it is sealed for.
func bound(id, purpose string, context []byte) []byte {
	return framed(nil, []byte(id), []byte(purpose), context)
}

// framed writes each part behind its length, so that no two lists of parts give the same bytes.
func framed(out []byte, parts ...[]byte) []byte {
	for _, p := range parts {
		out = binary.BigEndian.AppendUint64(out, uint64(len(p)))
		out = append(out, p...)
	}
	return out
}

// MAC names what the parts say without telling it: the same parts give the same value as long as the first key stays, and
// only who has that key can compute it. With encryption off it is a hash, which everybody can compute: it still names, but
// proves nothing.
func (b *Box) MAC(purpose string, parts ...[]byte) [sha256.Size]byte {
	data := framed(nil, append([][]byte{[]byte(purpose)}, parts...)...)
	if b == nil {
		return sha256.Sum256(data)
	}
	sub, err := hkdf.Key(sha256.New, b.keys[0].secret, nil, "pimoe mac "+purpose, keySize)
	if err != nil {
		panic("seal: a key of 32 bytes can't be derived")
	}
	h := hmac.New(sha256.New, sub)
	h.Write(data)
	return [sha256.Size]byte(h.Sum(nil))
}
