package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/atomicfile"
)

const (
	keySize = 32
	maxFile = 64 << 10 // bytes: some hundreds of keys, and a comment for each
	// private are the rights that others must not have. The group may read: that is how Kubernetes mounts a secret for a
	// process that is not root.
	private = 0o027
)

// keyID keeps an id readable in errors and lists. Its length fits one byte.
var keyID = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)

// key is one line of the file.
type key struct {
	id     string
	secret []byte
}

// line is the key as the file has it.
func (k key) line() string { return k.id + ":" + base64.StdEncoding.EncodeToString(k.secret) }

func newKey() key {
	b := make([]byte, keySize+4)
	rand.Read(b) // never fails
	return key{id: hex.EncodeToString(b[keySize:]), secret: b[:keySize]}
}

// NewLine is a new key as a line of a key file, for whoever keeps the file elsewhere.
func NewLine() string { return newKey().line() }

// Create makes a key file with one key and tells its id. A file that is there already is an error.
func Create(path string) (id string, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("create key file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("create key file: %s exists; add a key to it with: pimoe encryption rotate: %w", path, sdk.ErrInvalid)
	}
	if err != nil {
		return "", fmt.Errorf("create key file: %w", err)
	}
	k := newKey()
	_, err = io.WriteString(f, header+k.line()+"\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("create key file: %w", errors.Join(err, os.Remove(path)))
	}
	return k.id, atomicfile.SyncFolder(filepath.Dir(path))
}

const header = "# Keys of records at rest, ID:BASE64. The first one seals, all of them open. Without them the records are lost.\n"

// Rotate puts a new key before those of the file and tells its id. Records that were sealed before open as they did.
func Rotate(path string) (id string, err error) {
	k := newKey()
	err = edit(path, func(keys []key) ([]key, error) { return append([]key{k}, keys...), nil })
	if err != nil {
		return "", fmt.Errorf("rotate keys: %w", err)
	}
	return k.id, nil
}

// Forget takes a key out of the file. What it sealed can't be opened any more, so the first one is refused.
func Forget(path, id string) error {
	err := edit(path, func(keys []key) ([]key, error) {
		switch i := slices.IndexFunc(keys, func(k key) bool { return k.id == id }); {
		case i < 0:
			return nil, fmt.Errorf("key %.32q: %w", id, sdk.ErrNotFound)
		case i == 0:
			return nil, fmt.Errorf("key %s seals; rotate first: %w", id, sdk.ErrInvalid)
		default:
			return slices.Delete(keys, i, i+1), nil
		}
	})
	if err != nil {
		return fmt.Errorf("forget key: %w", err)
	}
	return nil
}

// IDs are the names of the keys in the file's order; the first one seals.
func IDs(path string) ([]string, error) {
	keys, err := readKeys(path)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.id
	}
	return ids, nil
}

// edit replaces the file at once: whoever reads it meanwhile sees the old one or the new one. The new one is made under a
// name of its own that only one process can make, so that two edits at a time can't lose a key. Comments are not kept.
func edit(path string, change func([]key) ([]key, error)) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s.new exists: somebody else is changing the keys, or was stopped while at it; then remove that file: %w", path, sdk.ErrUnavailable)
	}
	if err != nil {
		return err
	}
	text, err := changed(path, change)
	if err == nil {
		_, err = io.WriteString(f, text)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return atomicfile.SyncFolder(filepath.Dir(path)) // a key that is gone after a power failure takes its records along
}

// changed is the file's text after a change.
func changed(path string, change func([]key) ([]key, error)) (string, error) {
	keys, err := readKeys(path)
	if err != nil {
		return "", err
	}
	if keys, err = change(keys); err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(header)
	for _, k := range keys {
		b.WriteString(k.line() + "\n")
	}
	return b.String(), nil
}

// readKeys reads a file that others can't read.
func readKeys(path string) ([]key, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read keys: %w; make the file with: pimoe encryption new-key", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	if runtime.GOOS != "windows" && st.Mode().Perm()&private != 0 {
		return nil, fmt.Errorf("read keys %s: others can read or change it (mode %04o); chmod 600: %w", path, st.Mode().Perm(), sdk.ErrInvalid)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	keys, err := parseKeys(b)
	if err != nil {
		return nil, fmt.Errorf("read keys %s: %w", path, err)
	}
	return keys, nil
}

// parseKeys reads the lines. Errors name a line and never show it: it may hold a key.
func parseKeys(b []byte) ([]key, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("larger than %d bytes: %w", maxFile, sdk.ErrInvalid)
	}
	var keys []key
	n := 0
	for line := range bytes.Lines(b) {
		n++
		text := strings.TrimSpace(string(line))
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		k, why := parseKey(text)
		if why == "" && slices.ContainsFunc(keys, func(o key) bool { return o.id == k.id }) {
			why = "the id of another line"
		}
		if why != "" {
			return nil, fmt.Errorf("line %d has %s: %w", n, why, sdk.ErrInvalid)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// parseKey says what is wrong with a line; empty for nothing.
func parseKey(text string) (key, string) {
	id, encoded, ok := strings.Cut(text, ":")
	if !ok {
		return key{}, "no colon; want ID:BASE64"
	}
	if !keyID.MatchString(id) {
		return key{}, "another id than 1 to 32 lower-case letters, digits, - and _"
	}
	secret, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(secret) != keySize {
		return key{}, fmt.Sprintf("something else than %d bytes in base64 behind the id", keySize)
	}
	if same := bytes.Count(secret, secret[:1]); same == keySize {
		return key{}, "a key of one repeated byte, which can be guessed"
	}
	return key{id, secret}, ""
}
