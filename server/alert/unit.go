package alert

import (
	"fmt"
	"math"
)

// Unit is how a value is written for people; the same in the host and by Prometheus' templates.
type Unit string

// The units.
const (
	Ratio   Unit = "ratio"   // 0.25 is 25%
	Seconds Unit = "seconds" // 0.25 is 250ms
	Count   Unit = "count"
)

// template is the function of Prometheus' templates.
func (u Unit) template() string {
	switch u {
	case Ratio:
		return "humanizePercentage"
	case Seconds:
		return "humanizeDuration"
	}
	return "humanize"
}

func (u Unit) text(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return fmt.Sprintf("%.4g", v)
	}
	switch u {
	case Ratio:
		return fmt.Sprintf("%.4g%%", v*100)
	case Seconds:
		return durationText(v)
	}
	return prefixed(v)
}

// prefixed writes 4 digits with a decimal prefix.
func prefixed(v float64) string {
	prefix := ""
	if math.Abs(v) >= 1 {
		for _, p := range []string{"k", "M", "G", "T", "P", "E", "Z", "Y"} {
			if math.Abs(v) < 1000 {
				break
			}
			prefix, v = p, v/1000
		}
		return fmt.Sprintf("%.4g%s", v, prefix)
	}
	for _, p := range []string{"m", "u", "n", "p", "f", "a", "z", "y"} {
		if v == 0 || math.Abs(v) >= 1 {
			break
		}
		prefix, v = p, v*1000
	}
	return fmt.Sprintf("%.4g%s", v, prefix)
}

// durationText writes seconds.
func durationText(v float64) string {
	if v == 0 {
		return "0s"
	}
	if math.Abs(v) < 1 {
		return prefixed(v) + "s"
	}
	sign := ""
	if v < 0 {
		sign, v = "-", -v
	}
	seconds := int64(v)
	days, hours, minutes := seconds/86400, seconds/3600%24, seconds/60%60
	switch {
	case days > 0:
		return fmt.Sprintf("%s%dd %dh %dm %ds", sign, days, hours, minutes, seconds%60)
	case hours > 0:
		return fmt.Sprintf("%s%dh %dm %ds", sign, hours, minutes, seconds%60)
	case minutes > 0:
		return fmt.Sprintf("%s%dm %ds", sign, minutes, seconds%60)
	}
	return fmt.Sprintf("%s%.4gs", sign, v)
}
