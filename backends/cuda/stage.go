package cuda

import (
	"errors"
	"fmt"

	"github.com/pimoe/pimoe/sdk/tensor"
)

// stage is the memory of a stream, and the chunk that is under way there.
type stage struct {
	in, out []byte // of the host, pinned
	room    uint64 // on the device
	bytes   int    // of room
	chunk   chunk
	busy    bool
}

// chunk is rows of a call on their way.
type chunk struct {
	y        tensor.Matrix
	direct   bool // the device copies them into y by itself
	up, down int  // bytes
}

// pin makes the pinned memory large enough. What it held is lost.
func (s *stage) pin(dev device, in, out int) error {
	for _, m := range []struct {
		b *[]byte
		n int
	}{{&s.in, in}, {&s.out, out}} {
		if m.n <= len(*m.b) {
			continue
		}
		if err := unpin(dev, m.b); err != nil {
			return err
		}
		b, err := dev.pinned(roundUp(m.n, 4096))
		if err != nil {
			return err
		}
		*m.b = b
	}
	return nil
}

func unpin(dev device, b *[]byte) error {
	if *b == nil {
		return nil
	}
	err := dev.unpin(*b)
	*b = nil // also after an error, which no second try would mend
	if err != nil {
		return fmt.Errorf("free pinned memory: %w", err)
	}
	return nil
}

// size makes room for a chunk.
func (s *stage) size(dev device, p places, outBytes int) error {
	if err := s.pin(dev, p.cx, outBytes); err != nil {
		return err
	}
	if p.end <= s.bytes {
		return nil
	}
	if err := s.vacate(dev); err != nil {
		return err
	}
	room, err := dev.alloc(p.end)
	if err != nil {
		return fmt.Errorf("room for rows: %w", err)
	}
	s.room, s.bytes = room, p.end
	return nil
}

// vacate gives the room on the device back.
func (s *stage) vacate(dev device) error {
	if s.room == 0 {
		return nil
	}
	room := s.room
	s.room, s.bytes = 0, 0
	if err := dev.free(room); err != nil {
		return fmt.Errorf("free room for rows: %w", err)
	}
	return nil
}

func (s *stage) free(dev device) error {
	return errors.Join(unpin(dev, &s.in), unpin(dev, &s.out), s.vacate(dev))
}
