package wire

import (
	"context"
	"encoding/hex"
	"strconv"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/pimoe/pimoe/sdk/internal/plane"
)

// Over gRPC a call that somebody follows has the metadata of W3C Trace Context, which OpenTelemetry reads in any language, and
// its answer a trailer that says when it was computed. A plugin need not write it.
const (
	traceHeader  = "traceparent"
	beganTrailer = "pimoe-began-ns" // since 1970
	tookTrailer  = "pimoe-took-ns"
)

// PutTrace adds a call's trace to what is sent.
func PutTrace(ctx context.Context, t plane.Trace) context.Context {
	return metadata.AppendToOutgoingContext(ctx, traceHeader, "00-"+hex.EncodeToString(t.ID[:])+"-"+hex.EncodeToString(t.Span[:])+"-01")
}

// Followed reports whether somebody follows the call whose metadata ctx has.
func Followed(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, traceHeader)) > 0
}

// Times is the trailer of a call that was computed from began on until now.
func Times(began time.Time) metadata.MD {
	return metadata.Pairs(beganTrailer, strconv.FormatInt(began.UnixNano(), 10), tookTrailer, strconv.FormatInt(int64(time.Since(began)), 10))
}

// TakeTimes is what a trailer says; zeros if it says nothing.
func TakeTimes(md metadata.MD) (began, took uint64) {
	number := func(key string) uint64 {
		v := md.Get(key)
		if len(v) == 0 {
			return 0
		}
		n, err := strconv.ParseUint(v[0], 10, 63)
		if err != nil {
			return 0
		}
		return n
	}
	return number(beganTrailer), number(tookTrailer)
}
