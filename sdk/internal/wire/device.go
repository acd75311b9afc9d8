package wire

import (
	"fmt"
	"math"
	"regexp"
	"strings"
	"unicode"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
)

// Devices packs what a process says of its devices.
func Devices(list []expert.Device) (out []*pb.Device) {
	for _, d := range list {
		out = append(out, &pb.Device{
			Id: d.ID, Name: d.Name, MemoryBytes: uint64(d.MemoryBytes), MemoryUsedBytes: uint64(d.UsedBytes), WeightBytes: uint64(d.WeightBytes),
			KernelSeconds: d.KernelSeconds, UploadSeconds: d.UploadSeconds, DownloadSeconds: d.DownloadSeconds,
			UploadBytes: uint64(d.UploadBytes), DownloadBytes: uint64(d.DownloadBytes), Staged: d.Staged,
		})
	}
	return out
}

// The bounds of what a plugin may say: it becomes labels of metrics and lines for people.
const (
	maxDevices    = 64
	maxDeviceText = 512
)

var deviceID = regexp.MustCompile(`^[A-Za-z0-9:._-]{1,64}$`)

// DevicesOf unpacks it. Whatever is no number that a device can have, or no id, is sdk.ErrInvalidOutput.
func DevicesOf(list []*pb.Device) ([]expert.Device, error) {
	if len(list) > maxDevices {
		return nil, fmt.Errorf("%d devices, at most %d: %w", len(list), maxDevices, sdk.ErrInvalidOutput)
	}
	var out []expert.Device
	seen := map[string]bool{}
	for _, p := range list {
		if !deviceID.MatchString(p.GetId()) || seen[p.GetId()] {
			return nil, fmt.Errorf("device %.64q: want an id of its own, of letters, digits and : . _ -: %w", p.GetId(), sdk.ErrInvalidOutput)
		}
		seen[p.GetId()] = true
		for _, n := range []uint64{p.GetMemoryBytes(), p.GetMemoryUsedBytes(), p.GetWeightBytes(), p.GetUploadBytes(), p.GetDownloadBytes()} {
			if n > math.MaxInt64 {
				return nil, fmt.Errorf("device %s: %d bytes: %w", p.GetId(), n, sdk.ErrInvalidOutput)
			}
		}
		for _, s := range []float64{p.GetKernelSeconds(), p.GetUploadSeconds(), p.GetDownloadSeconds()} {
			if !(s >= 0) || math.IsInf(s, 1) {
				return nil, fmt.Errorf("device %s: %g seconds: %w", p.GetId(), s, sdk.ErrInvalidOutput)
			}
		}
		out = append(out, expert.Device{
			ID: p.GetId(), Name: plainText(p.GetName()), MemoryBytes: int64(p.GetMemoryBytes()), UsedBytes: int64(p.GetMemoryUsedBytes()),
			WeightBytes: int64(p.GetWeightBytes()), KernelSeconds: p.GetKernelSeconds(), UploadSeconds: p.GetUploadSeconds(),
			DownloadSeconds: p.GetDownloadSeconds(), UploadBytes: int64(p.GetUploadBytes()), DownloadBytes: int64(p.GetDownloadBytes()),
			Staged: plainText(p.GetStaged()),
		})
	}
	return out, nil
}

// plainText is what may be shown to people: on one line, and not too long.
func plainText(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxDeviceText {
		s = strings.ToValidUTF8(s[:maxDeviceText], "")
	}
	return s
}
