package ws

import (
	"encoding/binary"

	"github.com/pimoe/pimoe/server/strictjson"
)

// headLength is the size of the number before a binary frame's JSON.
const headLength = 4

// Split takes a binary frame apart: the length of the JSON in four bytes, least significant first, the JSON, the rest.
func Split(frame []byte) (head, rest []byte, err error) {
	short := &strictjson.Error{Malformed: true, Expected: "a binary frame: the length of its JSON in four bytes, the JSON, bytes", Got: "a shorter frame"}
	if len(frame) < headLength {
		return nil, nil, short
	}
	n := binary.LittleEndian.Uint32(frame)
	frame = frame[headLength:]
	if uint64(n) > uint64(len(frame)) {
		return nil, nil, short
	}
	return frame[:n:n], frame[n:], nil
}

// Join is the frame that Split takes apart.
func Join(head, rest []byte) []byte {
	out := make([]byte, 0, headLength+len(head)+len(rest))
	out = binary.LittleEndian.AppendUint32(out, uint32(len(head)))
	return append(append(out, head...), rest...)
}
