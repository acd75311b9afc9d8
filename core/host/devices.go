package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// DeviceUse is what the process of a replica says of a device that computes for it.
type DeviceUse struct {
	Group        string
	Replica, PID int
	expert.Device
}

// deviceLimit bounds the asking: a process answers without waiting for its device.
const deviceLimit = time.Second

// reporting is a computing whose process tells of devices.
type reporting interface {
	Devices(ctx context.Context) ([]expert.Device, error)
}

// Devices asks every process that computes on devices what they have and have done, all at once, and notes it for Status. The
// error names those that have not answered, or not validly; the others' answers are there all the same.
func (h *Host) Devices(ctx context.Context) (out []DeviceUse, err error) {
	ctx, cancel := context.WithTimeout(ctx, deviceLimit)
	defer cancel()
	var mu sync.Mutex // guards out and err
	var all sync.WaitGroup
	for _, s := range h.groups {
		g := s.own()
		if g == nil {
			continue
		}
		for r, p := range g.replicas {
			inc, _, _ := p.ready()
			if inc == nil || !inc.info.Has(sdk.CapDevices) {
				continue
			}
			all.Go(func() {
				list, why := inc.askDevices(ctx)
				mu.Lock()
				defer mu.Unlock()
				if why != nil {
					err = errors.Join(err, fmt.Errorf("%s/%d: %w", s.name, r, why))
				}
				for _, d := range list {
					out = append(out, DeviceUse{s.name, r, inc.proc.PID(), d})
				}
			})
		}
	}
	all.Wait()
	return out, err
}

func (i *incarnation) askDevices(ctx context.Context) ([]expert.Device, error) {
	e, tells := i.expert.(reporting)
	if !tells {
		return nil, nil
	}
	list, err := e.Devices(ctx)
	if err == nil {
		i.devices.Store(&list)
	}
	return list, err
}

// lastDevices are those of the last answer.
func (i *incarnation) lastDevices() []expert.Device {
	if list := i.devices.Load(); list != nil {
		return *list
	}
	return nil
}
