package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"time"
)

// record is an answer as it is kept: what it says, whose it is, and until when it may be given.
type record struct {
	key     Key
	made    time.Time
	expires time.Time
	payload []byte
}

// recordMagic begins a record: the format's name and its version. A version that this program does not know is a miss.
var recordMagic = []byte("PMC\x01")

const (
	recordHead = 4 + keySize + 8 + 8 + 2 // magic, sum, made, expires, length of the tenant
	maxTenant  = 1 << 10
	maxPayload = 1 << 20 // an answer of 100,000 tokens; larger ones are rare and would push out many others
)

// append writes the record behind b: the head, the tenant, and the payload up to the end.
func (r *record) append(b []byte) []byte {
	b = append(b, recordMagic...)
	b = append(b, r.key.sum[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.made.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(r.expires.UnixMilli()))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.key.tenant)))
	b = append(b, r.key.tenant...)
	return append(b, r.payload...)
}

var errRecord = errors.New("no record of this format")

// parseRecord reads a record. Its payload is a part of b.
func parseRecord(b []byte) (r record, err error) {
	if len(b) < recordHead || !bytes.HasPrefix(b, recordMagic) {
		return record{}, errRecord
	}
	b = b[len(recordMagic):]
	r.key.sum = [keySize]byte(b)
	b = b[keySize:]
	made, expires := int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))
	tenant := int(binary.BigEndian.Uint16(b[16:]))
	b = b[18:]
	if tenant > maxTenant || tenant > len(b) || len(b)-tenant > maxPayload || made < 0 || expires <= made || expires > maxTime {
		return record{}, errRecord
	}
	r.made, r.expires = time.UnixMilli(made), time.UnixMilli(expires)
	r.key.tenant, r.payload = string(b[:tenant]), b[tenant:]
	return r, nil
}

// maxTime is the year 9999 in milliseconds: beyond it is no time that anybody has written.
const maxTime = 253402300799999

// valid reports whether the record answers k now. ttl is the time to live that holds now, which may be shorter than the one
// it was made with. A record from the future is refused beyond what clocks of hosts differ by.
func (r *record) valid(k Key, now time.Time, ttl time.Duration) bool {
	age := now.Sub(r.made)
	return r.key == k && now.Before(r.expires) && age < ttl && age > -maxSkew
}

const maxSkew = 30 * time.Second
