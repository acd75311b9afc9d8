package service

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/pimoe/pimoe/sdk/internal/wire"
)

// timed runs a gRPC call and tells who follows it when that was. Nobody else is told, and no clock is read for him.
func timed(ctx context.Context, f func() error) error {
	if !wire.Followed(ctx) {
		return f()
	}
	began := time.Now()
	err := f()
	_ = grpc.SetTrailer(ctx, wire.Times(began)) // without a stream there is nobody to be told
	return err
}
