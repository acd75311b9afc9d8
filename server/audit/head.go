package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/pimoe/pimoe/server/atomicfile"
)

// head says where the log ends. It is written anew after every record.
type head struct {
	Seq       uint64    `json:"seq"`
	Hash      string    `json:"hash"`
	Time      time.Time `json:"time"`
	Key       string    `json:"key"` // fingerprint of the public key
	Signature string    `json:"signature"`
}

func headPath(path string) string   { return path + ".head" }
func keyPath(path string) string    { return path + ".key" }
func publicPath(path string) string { return path + ".pub" }
func lockPath(path string) string   { return path + ".lock" }

// signed is the text under the signature.
func (h head) signed() []byte {
	return fmt.Appendf(nil, "pimoe audit head\n%d\n%s\n%s\n%s\n", h.Seq, h.Hash, h.Time.Format(time.RFC3339Nano), h.Key)
}

func newHead(seq uint64, hash string, now time.Time, key ed25519.PrivateKey) head {
	h := head{Seq: seq, Hash: hash, Time: now.UTC().Round(0), Key: fingerprint(key.Public().(ed25519.PublicKey))}
	h.Signature = hex.EncodeToString(ed25519.Sign(key, h.signed()))
	return h
}

func (h head) signedBy(public ed25519.PublicKey) bool {
	sig, err := hex.DecodeString(h.Signature)
	return err == nil && hex.EncodeToString(sig) == h.Signature && ed25519.Verify(public, h.signed(), sig)
}

func fingerprint(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:8])
}

// maxHead is several times what a head has.
const maxHead = 4 << 10

func readHead(path string) (h head, err error) {
	b, err := readSmall(headPath(path))
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return h, errors.New("it is not the JSON of a head")
	}
	if again, err := encodeHead(h); err != nil || string(again) != string(b) {
		return h, errors.New("it is not written as the host writes it")
	}
	return h, nil
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxHead))
}

// publicKey is the given one, or that beside the log.
func publicKey(path, key string) (ed25519.PublicKey, error) {
	if key == "" {
		b, err := readSmall(publicPath(path))
		if err != nil {
			return nil, fmt.Errorf("public key of the audit log: %w", err)
		}
		key = string(b)
	}
	b, err := hex.DecodeString(strings.TrimSpace(key))
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("public key of the audit log: want %d hex digits", ed25519.PublicKeySize*2)
	}
	return b, nil
}

// ownKey is the key that signs heads, made at the first start. Nobody but the host's user may read it.
func ownKey(path string) (ed25519.PrivateKey, error) {
	f, err := os.OpenFile(keyPath(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		seed := make([]byte, ed25519.SeedSize)
		rand.Read(seed) // never fails
		_, err = f.WriteString(hex.EncodeToString(seed) + "\n")
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return nil, errors.Join(fmt.Errorf("write %s: %w", keyPath(path), err), os.Remove(keyPath(path)))
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("key of the audit log: %w", err)
	}
	st, err := os.Lstat(keyPath(path))
	switch {
	case err != nil:
		return nil, fmt.Errorf("key of the audit log: %w", err)
	case !st.Mode().IsRegular() || st.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("key of the audit log: %s: want a file that only its owner may read (chmod 600), not mode %v", keyPath(path), st.Mode())
	}
	b, err := readSmall(keyPath(path))
	if err != nil {
		return nil, fmt.Errorf("key of the audit log: %w", err)
	}
	seed, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("key of the audit log: %s: want %d hex digits", keyPath(path), ed25519.SeedSize*2)
	}
	key := ed25519.NewKeyFromSeed(seed)
	public := hex.EncodeToString(key.Public().(ed25519.PublicKey)) + "\n"
	if now, err := readSmall(publicPath(path)); err != nil || string(now) != public {
		if err := atomicfile.Write(publicPath(path), []byte(public), 0o644); err != nil {
			return nil, fmt.Errorf("public key of the audit log: %w", err)
		}
	}
	return key, nil
}

func encodeHead(h head) ([]byte, error) {
	b, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("head of the audit log: %w", err)
	}
	return append(b, '\n'), nil
}
