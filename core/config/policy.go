package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// policies are the values of the key policy, the default first.
var policies = []string{"strict", "fallback", "renormalise", "substitute"}

// remedy is what a group does while it can't answer. Of what its policy does not use everything is empty, so that units
// that behave alike share a process.
type remedy struct {
	policy      string
	fallback    Alternative
	substitutes string // "6:7,5:4": a map can't be compared
}

// change lays an override's remedy over another one.
func (e Experts) change(r remedy, o Override) remedy {
	r.policy = cmp.Or(o.Policy, r.policy)
	if o.Fallback != (Alternative{}) {
		r.fallback = o.Fallback
	}
	if len(o.Substitutes) > 0 {
		r.substitutes = pairs(o.Substitutes)
	}
	return r
}

// used is the remedy without what its policy has no use for.
func (r remedy) used() remedy {
	if r.policy != "fallback" {
		r.fallback = Alternative{}
	}
	if r.policy != "substitute" {
		r.substitutes = ""
	}
	return r
}

// pairs writes a map of experts in one form.
func pairs(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+":"+m[k])
	}
	return strings.Join(out, ",")
}

// numbers is the opposite of pairs.
func numbers(text string) map[int]int {
	out := map[int]int{}
	for pair := range strings.SplitSeq(text, ",") {
		from, to, _ := strings.Cut(pair, ":")
		a, errA := strconv.Atoi(from)
		b, errB := strconv.Atoi(to)
		if errA == nil && errB == nil {
			out[a] = b
		}
	}
	return out
}

// substitutesOf holds the substitutes against the model's number of experts.
func substitutesOf(key string, m map[string]string, experts int) []Problem {
	var bad []Problem
	for _, from := range slices.Sorted(maps.Keys(m)) {
		for _, text := range []string{from, m[from]} {
			if n, err := strconv.Atoi(text); err == nil && n >= experts {
				bad = append(bad, Problem{Key: key, Value: from + ": " + m[from], Want: fmt.Sprintf("experts that the model has: 0-%d", experts-1)})
				break
			}
		}
	}
	return bad
}

// policies checks what is to be done while experts can't answer.
func (v *validator) policies(c Config) {
	if m := c.Degraded.MaxDroppedMass; !(m >= 0 && m <= 1) { // also NaN
		v.bad("degraded.max_dropped_mass", strconv.FormatFloat(m, 'g', -1, 64), "a number from 0 to 1")
	}
	v.alternative("degraded.fallback", c.Degraded.Fallback)
	v.substitutes("degraded.substitutes", c.Degraded.Substitutes)
	used := map[string]bool{}
	need := func(key, policy string, r remedy) {
		used[policy] = true
		switch {
		case policy == "fallback" && r.fallback == (Alternative{}):
			v.bad(key, policy, "a backend of another numeric class in fallback, such as fallback: {backend: int8}, here or under degraded")
		case policy == "substitute" && r.substitutes == "":
			v.bad(key, policy, "the experts that stand in, such as substitutes: {6: 7}, here or under degraded")
		}
	}
	all := remedy{policy: c.Policy, fallback: c.Degraded.Fallback, substitutes: pairs(c.Degraded.Substitutes)}
	need("policy", c.Policy, all)
	for i, o := range c.Experts.Overrides {
		key := fmt.Sprintf("experts.overrides[%d]", i)
		v.alternative(key+".fallback", o.Fallback)
		v.substitutes(key+".substitutes", o.Substitutes)
		if o.Policy != "" && !slices.Contains(policies, o.Policy) {
			v.bad(key+".policy", o.Policy, "one of "+strings.Join(policies, ", "))
		}
		r := c.Experts.change(all, o)
		if o.Policy != "" {
			need(key+".policy", o.Policy, r)
		}
		if o.Fallback != (Alternative{}) && r.policy != "fallback" {
			v.bad(key+".fallback", "", "policy fallback with it: it has no effect under policy "+r.policy)
		}
		if len(o.Substitutes) > 0 && r.policy != "substitute" {
			v.bad(key+".substitutes", "", "policy substitute with it: it has no effect under policy "+r.policy)
		}
	}
	if c.Degraded.Fallback != (Alternative{}) && !used["fallback"] {
		v.bad("degraded.fallback", "", "policy fallback somewhere: without it this has no effect")
	}
	if len(c.Degraded.Substitutes) > 0 && !used["substitute"] {
		v.bad("degraded.substitutes", "", "policy substitute somewhere: without it this has no effect")
	}
}

// alternative checks the backend of a fallback, if there is one.
func (v *validator) alternative(key string, a Alternative) {
	if a == (Alternative{}) {
		return
	}
	if !pluginName.MatchString(a.Backend) {
		v.bad(key+".backend", orEmpty(a.Backend), "a name of lower-case letters, digits, - and _, such as int8")
		return
	}
	switch known, ours := classes[a.Backend]; {
	case a.Precision == "":
	case !className.MatchString(a.Precision):
		v.bad(key+".precision", a.Precision, "auto or a numeric class such as f32 or int8g32")
	case ours && a.Plugin == "" && !slices.Contains(known, a.Precision):
		v.bad(key+".precision", a.Precision, "one of "+strings.Join(known, ", ")+": backend "+a.Backend+" computes in no other class")
	}
}

// substitutes checks that experts stand in for other experts.
func (v *validator) substitutes(key string, m map[string]string) {
	for _, from := range slices.Sorted(maps.Keys(m)) {
		a, errA := strconv.Atoi(from)
		b, errB := strconv.Atoi(m[from])
		if errA != nil || errB != nil || a < 0 || b < 0 || a == b || from != strconv.Itoa(a) {
			v.bad(key, from+": "+m[from], "an expert's number and that of another one, such as {6: 7}")
		}
	}
}
