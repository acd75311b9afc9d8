package weights

import (
	"bufio"
	"fmt"
	"os"
)

// verdicts is a file, beside a stored model, with the digests that processes have found for its files: a line for each
// identity, appended in one write, the last one of an identity valid. It only saves time: a lost line costs a hashing, a
// line that can't be read is no line, and a store that can't be written has none. Whoever can write to it can also write
// to the manifests that it is compared with, so it opens no door.
type verdicts struct{ path string }

// maxVerdicts is when the file begins anew: several thousand lines, most of them of files long gone.
const maxVerdicts = 1 << 20

const verdictLine = "%d %d %d %d %d %s\n" // device, inode, size, modification and change time in ns, sha256

// all reads the file.
func (v verdicts) all() map[identity]string {
	f, err := os.Open(v.path)
	if err != nil {
		return nil
	}
	defer f.Close()
	out := map[identity]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var id identity
		var digest string
		n, err := fmt.Sscanf(lines.Text()+"\n", verdictLine, &id.dev, &id.ino, &id.size, &id.mtime, &id.ctime, &digest)
		if err == nil && n == 6 && hexDigest.MatchString(digest) {
			out[id] = digest
		}
	}
	return out
}

// enter adds a verdict.
func (v verdicts) enter(id identity, digest string) {
	if v.path == "" {
		return
	}
	if st, err := os.Lstat(v.path); err == nil && (st.Size() > maxVerdicts || !st.Mode().IsRegular()) {
		os.Remove(v.path)
	}
	f, err := os.OpenFile(v.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, verdictLine, id.dev, id.ino, id.size, id.mtime, id.ctime, digest)
}
