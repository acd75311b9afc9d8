package weights

import (
	"errors"
	"time"
)

type inode struct{ dev, ino uint64 }

type identity struct {
	inode
	size, mtime, ctime int64
}

const lockPoll = 25 * time.Millisecond

var errLocked = errors.New("locked by another import")
