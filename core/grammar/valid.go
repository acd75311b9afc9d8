package grammar

import (
	"unicode/utf8"
)

// holds reports whether a value is valid under a schema.
func (s *schema) holds(v any) bool {
	if s.never {
		return false
	}
	t := typeOf(v)
	if s.types != 0 && s.types&t == 0 || s.enum != nil && !among(s.enum, v) || s.fixed != nil && !among(s.fixed, v) {
		return false
	}
	if s.ref != nil && !s.ref.holds(v) {
		return false
	}
	for _, a := range s.allOf {
		if !a.holds(v) {
			return false
		}
	}
	if s.anyOf != nil && matching(s.anyOf, v) == 0 || s.oneOf != nil && matching(s.oneOf, v) != 1 {
		return false
	}
	if s.not != nil && s.not.holds(v) {
		return false
	}
	if s.condition != nil {
		branch := s.alt
		if s.condition.holds(v) {
			branch = s.consequence
		}
		if branch != nil && !branch.holds(v) {
			return false
		}
	}
	switch v := v.(type) {
	case number:
		return s.validNumber(v)
	case string:
		return s.validString(v)
	case []any:
		return s.validArray(v)
	case *object:
		return s.validObject(v)
	}
	return true
}

func among(list []any, v any) bool {
	for _, e := range list {
		if equal(e, v) {
			return true
		}
	}
	return false
}

func matching(list []*schema, v any) int {
	n := 0
	for _, a := range list {
		if a.holds(v) {
			n++
		}
	}
	return n
}

func (s *schema) validNumber(v number) bool {
	for _, m := range s.multipleOf {
		if !divides(m, v.rat) {
			return false
		}
	}
	return s.num.holds(v.rat)
}

func within(n int, least, most int32) bool {
	return n >= int(least) && (most < 0 || n <= int(most))
}

func (s *schema) validString(v string) bool {
	if !within(utf8.RuneCountInString(v), s.minLength, s.maxLength) || s.pattern != nil && !s.pattern.matches(v) {
		return false
	}
	return true
}

func (s *schema) validArray(v []any) bool {
	if !within(len(v), s.minItems, s.maxItems) {
		return false
	}
	for i, e := range v {
		switch {
		case i < len(s.prefix):
			if !s.prefix[i].holds(e) {
				return false
			}
		case s.items != nil && !s.items.holds(e):
			return false
		}
		if s.unique && among(v[:i], e) {
			return false
		}
	}
	if s.contains != nil {
		n := 0
		for _, e := range v {
			if s.contains.holds(e) {
				n++
			}
		}
		least := s.minContains
		if least < 0 {
			least = 1
		}
		return within(n, least, s.maxContains)
	}
	return true
}

func (s *schema) validObject(v *object) bool {
	if !within(len(v.keys), s.minProperties, s.maxProperties) {
		return false
	}
	for _, k := range s.required {
		if _, ok := v.vals[k]; !ok {
			return false
		}
	}
	for _, n := range s.needs {
		if _, ok := v.vals[n.name]; ok {
			for _, k := range n.others {
				if _, ok := v.vals[k]; !ok {
					return false
				}
			}
		}
	}
	for _, d := range s.dependents {
		if _, ok := v.vals[d.name]; ok && !d.s.holds(v) {
			return false
		}
	}
	for _, k := range v.keys {
		if s.names != nil && !s.names.holds(k) {
			return false
		}
		for _, a := range s.forKey(k) {
			if !a.holds(v.vals[k]) {
				return false
			}
		}
	}
	return true
}

// forKey are the schemas that an object's schema has for a member.
func (s *schema) forKey(k string) []*schema {
	var out []*schema
	for _, p := range s.properties {
		if p.name == k {
			out = append(out, p.s)
		}
	}
	for _, p := range s.patterns {
		if p.d.matches(k) {
			out = append(out, p.s)
		}
	}
	if len(out) == 0 && s.additional != nil {
		out = append(out, s.additional)
	}
	return out
}
