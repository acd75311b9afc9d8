package server

// homeWritable is 1 while the disk of the home has room and may be written.
func (s *Server) homeWritable() float64 {
	if s.disk.Writable() {
		return 1
	}
	return 0
}
