package weights

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

type inode struct{ dev, ino uint64 }

// identity changes whenever a file's content does, as far as the file system tells.
type identity struct {
	inode
	size, mtime, ctime int64
}

// known is what this process has hashed so far: one table, because a file is the same file for every model and host.
var known = digests{now: time.Now, byInode: map[inode]*run{}}

// settled is how old a file's last change must be before its digest is remembered: within one tick of the file
// system's clock a second change would not show. Two seconds is the coarsest clock in use.
const settled = 2 * time.Second

// digests hashes files, once per identity.
type digests struct {
	now     func() time.Time
	mu      sync.Mutex
	byInode map[inode]*run    // guarded by mu: runs under way and remembered results
	read    map[verdicts]bool // guarded by mu: the books that learn has read
}

// run is one hashing of a file; digest and err are set before done is closed.
type run struct {
	id     identity
	done   chan struct{}
	digest string
	err    error
}

// wait waits for the end of a run. One that has ended has ended, also for a ctx that has.
func (r *run) wait(ctx context.Context) error {
	select {
	case <-r.done:
		return nil
	default:
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// digest is f's sha256. The caller who comes first hashes, with its own ctx; the others wait, and if the first gives
// up one of them goes on.
//
// What was found out earlier is taken from book, and what is found out now is written there.
func (d *digests) digest(ctx context.Context, f *os.File, size int64, fresh bool, book verdicts) (string, error) {
	if !fresh {
		d.learn(book)
	}
	for {
		id, ok, err := identify(f)
		if err != nil {
			return "", err
		}
		if !ok {
			return hashOf(ctx, io.NewSectionReader(f, 0, size))
		}
		r, mine := d.join(id, fresh)
		if mine {
			d.hash(ctx, f, r, fresh, book)
			return r.digest, r.err
		}
		if err := r.wait(ctx); err != nil {
			return "", err
		}
		if !errors.Is(r.err, context.Canceled) && !errors.Is(r.err, context.DeadlineExceeded) {
			return r.digest, r.err
		}
	}
}

// join finds the run for id or makes one, which is then the caller's to complete.
func (d *digests) join(id identity, fresh bool) (r *run, mine bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.byInode[id.inode]; r != nil && r.id == id && !fresh {
		return r, false
	}
	r = &run{id: id, done: make(chan struct{})}
	d.byInode[id.inode] = r
	return r, true
}

// hash completes a run. Its result is remembered only if the file held still long before and all the while.
func (d *digests) hash(ctx context.Context, f *os.File, r *run, gently bool, book verdicts) {
	defer close(r.done)
	quiet := d.now().Sub(time.Unix(0, r.id.ctime)) > settled
	from := io.Reader(io.NewSectionReader(f, 0, r.id.size))
	if gently {
		from = &gentle{r: from, ctx: ctx}
	}
	r.digest, r.err = hashOf(ctx, from)
	if r.err == nil {
		if id, _, err := identify(f); err != nil || id != r.id {
			r.err = errors.Join(fmt.Errorf("the file changed while it was read: %w", sdk.ErrInvalid), err)
		}
	}
	if quiet && r.err == nil {
		book.enter(r.id, r.digest)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if (!quiet || r.err != nil) && d.byInode[r.id.inode] == r {
		delete(d.byInode, r.id.inode)
	}
}

// learn takes over the verdicts of earlier processes, once a book.
func (d *digests) learn(book verdicts) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.read[book] {
		return
	}
	if d.read == nil {
		d.read = map[verdicts]bool{}
	}
	d.read[book] = true
	for id, digest := range book.all() {
		if d.byInode[id.inode] == nil {
			r := &run{id: id, done: make(chan struct{}), digest: digest}
			close(r.done)
			d.byInode[id.inode] = r
		}
	}
}

// gentle is a reader that rests between reads, four times as long as the reading and what was done with it took: a fifth
// of one core at most goes into a sweep, and the disk stays free for others.
type gentle struct {
	r     io.Reader
	ctx   context.Context
	since time.Time // the last read began
}

func (g *gentle) Read(b []byte) (int, error) {
	if !g.since.IsZero() {
		rest := time.NewTimer(min(4*time.Since(g.since), 100*time.Millisecond))
		defer rest.Stop()
		select {
		case <-rest.C:
		case <-g.ctx.Done():
			return 0, g.ctx.Err()
		}
	}
	g.since = time.Now()
	return g.r.Read(b)
}

// hashOf reads r to its end; it stops soon after ctx is done.
func hashOf(ctx context.Context, r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := copyAll(ctx, h, r, make([]byte, chunk)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// chunk is the unit of copying, hashing, progress and cancellation: large enough that calls cost nothing beside
// sha256, which takes about a millisecond for it.
const chunk = 1 << 20

// copyAll is io.CopyBuffer that looks at ctx before each chunk and never takes a shortcut around buf.
func copyAll(ctx context.Context, w io.Writer, r io.Reader, buf []byte) (int64, error) {
	total := int64(0)
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := r.Read(buf)
		total += int64(n)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return total, werr
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
