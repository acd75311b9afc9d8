//go:build !linux

package nemesis

import (
	"context"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/program"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/schedule"
)

func (n *Nemesis) strike(context.Context, schedule.Fault, target) (struck, error) {
	return struck{}, program.Supported()
}
