package host

import "golang.org/x/sys/unix"

// usableCores are the numbers of the cores that this process may run on.
func usableCores() []int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return nil
	}
	var cores []int
	for i := 0; i < 8*len(set)*8 && len(cores) < set.Count(); i++ {
		if set.IsSet(i) {
			cores = append(cores, i)
		}
	}
	return cores
}
