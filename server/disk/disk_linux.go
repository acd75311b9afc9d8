package disk

import "golang.org/x/sys/unix"

func read(path string) (Reading, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Reading{}, err
	}
	return Reading{Free: int64(st.Bavail) * int64(st.Bsize), ReadOnly: st.Flags&unix.ST_RDONLY != 0}, nil
}
