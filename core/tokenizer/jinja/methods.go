package jinja

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The methods of texts, lists and mappings. Those that would modify a value are refused, as in Jinja2's immutable sandbox.
var strMethods, listMethods, dictMethods map[string]builtin

// method makes a builtin for one type of value.
func method[T Value](name string, required int, names []string, f func(m *machine, v T, p []Value) (Value, error)) builtin {
	return func(m *machine, v Value, a args) (Value, error) {
		p, err := a.params(name+"()", required, names...)
		if err != nil {
			return nil, err
		}
		x, ok := v.(T)
		if !ok {
			return nil, errorf("%s of a '%s' object", name, typeName(v))
		}
		if s, ok := v.(string); ok {
			if err := m.charge(len(s)); err != nil {
				return nil, err
			}
		}
		return f(m, x, p)
	}
}

func refuse(name string) builtin {
	return func(_ *machine, v Value, _ args) (Value, error) {
		return nil, errorf("access to attribute '%s' of '%s' object is unsafe.", name, typeName(v))
	}
}

func init() {
	strMethods = map[string]builtin{"format": strFormat}
	str0 := func(name string, f func(s string) Value) {
		strMethods[name] = method(name, 0, nil, func(m *machine, s string, _ []Value) (Value, error) {
			return f(s), m.room(3 * len(s))
		})
	}
	str0("upper", func(s string) Value { return upperText(s) })
	str0("lower", func(s string) Value { return lowerText(s) })
	str0("casefold", func(s string) Value { return foldText(s) })
	str0("capitalize", func(s string) Value { return capitalize(s) })
	str0("title", func(s string) Value { return titleText(s) })
	str0("swapcase", func(s string) Value { return swapCase(s) })
	str0("isspace", func(s string) Value { return allRunes(s, isSpace) })
	str0("isalpha", func(s string) Value { return allRunes(s, unicode.IsLetter) })
	str0("isalnum", func(s string) Value {
		return allRunes(s, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) })
	})
	str0("isdigit", func(s string) Value { return allRunes(s, isDigit) })
	str0("isdecimal", func(s string) Value { return allRunes(s, unicode.IsDigit) })
	str0("isnumeric", func(s string) Value { return allRunes(s, unicode.IsNumber) })
	str0("isascii", func(s string) Value { return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0 })
	str0("islower", func(s string) Value { return oneCase(s, unicode.IsLower) })
	str0("isupper", func(s string) Value { return oneCase(s, unicode.IsUpper) })
	str0("istitle", func(s string) Value { return isTitle(s) })
	for name, sides := range map[string][2]bool{"strip": {true, true}, "lstrip": {true, false}, "rstrip": {false, true}} {
		strMethods[name] = method(name, 0, []string{"chars"}, func(_ *machine, s string, p []Value) (Value, error) {
			return stripText(s, p[0], sides[0], sides[1])
		})
	}
	for name, right := range map[string]bool{"split": false, "rsplit": true} {
		strMethods[name] = method(name, 0, []string{"sep", "maxsplit"}, func(m *machine, s string, p []Value) (Value, error) {
			return m.split(s, p[0], p[1], right)
		})
	}
	strMethods["splitlines"] = method("splitlines", 0, []string{"keepends"}, func(m *machine, s string, p []Value) (Value, error) {
		return m.splitLines(s, asBool(p[0], false))
	})
	strMethods["startswith"] = affix("startswith", strings.HasPrefix)
	strMethods["endswith"] = affix("endswith", strings.HasSuffix)
	strMethods["removeprefix"] = cutAffix("removeprefix", strings.TrimPrefix)
	strMethods["removesuffix"] = cutAffix("removesuffix", strings.TrimSuffix)
	strMethods["replace"] = method("replace", 2, []string{"old", "new", "count"}, func(m *machine, s string, p []Value) (Value, error) {
		from, err := asStr(p[0], "")
		if err != nil {
			return nil, err
		}
		to, err := asStr(p[1], "")
		if err != nil {
			return nil, err
		}
		n, err := asInt(p[2], -1)
		if err != nil {
			return nil, err
		}
		return m.replaceText(s, from, to, n)
	})
	strMethods["join"] = method("join", 1, []string{"iterable"}, func(m *machine, s string, p []Value) (Value, error) {
		return m.strJoin(s, p[0])
	})
	for name, last := range map[string]bool{"find": false, "index": false, "rfind": true, "rindex": true} {
		strMethods[name] = method(name, 1, []string{"sub", "start", "end"}, func(m *machine, s string, p []Value) (Value, error) {
			return find(s, p, last, strings.HasSuffix(name, "index"))
		})
	}
	strMethods["count"] = method("count", 1, []string{"sub"}, func(_ *machine, s string, p []Value) (Value, error) {
		sub, err := asStr(p[0], "")
		return int64(strings.Count(s, sub)), err
	})
	for name, align := range map[string]byte{"center": '^', "ljust": '<', "rjust": '>'} {
		strMethods[name] = method(name, 1, []string{"width", "fillchar"}, func(m *machine, s string, p []Value) (Value, error) {
			return m.justify(s, p, align)
		})
	}
	strMethods["zfill"] = method("zfill", 1, []string{"width"}, func(m *machine, s string, p []Value) (Value, error) {
		n, err := asInt(p[0], 0)
		if err != nil {
			return nil, err
		}
		sign := ""
		if s != "" && (s[0] == '-' || s[0] == '+') {
			sign, s, n = s[:1], s[1:], n-1
		}
		v, err := m.pad(s, n, '0', '>')
		if err != nil {
			return nil, err
		}
		return sign + v.(string), nil
	})
	strMethods["partition"] = partition("partition", strings.Index, false)
	strMethods["rpartition"] = partition("rpartition", strings.LastIndex, true)

	listMethods = map[string]builtin{
		"count": method("count", 1, []string{"value"}, func(m *machine, l *List, p []Value) (Value, error) {
			n := int64(0)
			for _, x := range l.items {
				eq, err := m.equal(x, p[0], 0)
				if err != nil {
					return nil, err
				}
				n += intOf(eq)
			}
			return n, m.charge(8 * len(l.items))
		}),
		"index": method("index", 1, []string{"value"}, func(m *machine, l *List, p []Value) (Value, error) {
			for i, x := range l.items {
				if eq, err := m.equal(x, p[0], 0); err != nil || eq {
					return int64(i), err
				}
			}
			return nil, errorf("value is not in list")
		}),
		"copy": method("copy", 0, nil, func(_ *machine, l *List, _ []Value) (Value, error) { return l, nil }),
	}
	for _, name := range []string{"append", "extend", "insert", "pop", "remove", "clear", "reverse", "sort"} {
		listMethods[name] = refuse(name)
	}
	dictMethods = map[string]builtin{
		"get": method("get", 1, []string{"key", "default"}, func(_ *machine, d *Dict, p []Value) (Value, error) {
			if _, err := hash(p[0]); err != nil {
				return nil, err
			}
			if v, ok := d.lookup(p[0]); ok {
				return v, nil
			}
			if given(p[1]) {
				return p[1], nil
			}
			return nil, nil
		}),
		"keys": method("keys", 0, nil, func(_ *machine, d *Dict, _ []Value) (Value, error) { return &List{items: d.keys}, nil }),
		"values": method("values", 0, nil, func(_ *machine, d *Dict, _ []Value) (Value, error) {
			return &List{items: d.values}, nil
		}),
		"items": method("items", 0, nil, func(m *machine, d *Dict, _ []Value) (Value, error) {
			l, err := m.pairs(d)
			return &List{items: l}, err
		}),
		"copy": method("copy", 0, nil, func(_ *machine, d *Dict, _ []Value) (Value, error) { return d, nil }),
	}
	for _, name := range []string{"pop", "popitem", "clear", "update", "setdefault"} {
		dictMethods[name] = refuse(name)
	}
}

func allRunes(s string, in func(rune) bool) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return !in(r) }) < 0
}

// isDigit is str.isdigit: decimal digits and superscript ones.
func isDigit(r rune) bool {
	return unicode.IsDigit(r) || strings.ContainsRune("\u00b2\u00b3\u00b9\u2070\u2074\u2075\u2076\u2077\u2078\u2079\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089", r)
}

// titleText is str.title: a word starts after anything that has no case.
func titleText(s string) string {
	var b strings.Builder
	inside := false
	for _, r := range s {
		cased := unicode.IsLetter(r) && (unicode.IsUpper(r) || unicode.IsLower(r) || unicode.IsTitle(r))
		switch {
		case !cased:
			b.WriteRune(r)
		case inside:
			b.WriteString(lowerText(string(r)))
		default:
			b.WriteRune(unicode.ToTitle(r))
		}
		inside = cased
	}
	return b.String()
}

func isTitle(s string) bool {
	seen, inside := false, false
	for _, r := range s {
		switch {
		case unicode.IsUpper(r) || unicode.IsTitle(r):
			if inside {
				return false
			}
			seen, inside = true, true
		case unicode.IsLower(r):
			if !inside {
				return false
			}
		default:
			inside = false
		}
	}
	return seen
}

func swapCase(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case unicode.IsUpper(r):
			b.WriteString(lowerText(string(r)))
		case unicode.IsLower(r):
			b.WriteString(upperText(string(r)))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func (m *machine) split(s string, sep, limit Value, right bool) (Value, error) {
	n, err := asInt(limit, -1)
	if err != nil {
		return nil, err
	}
	if n < 0 || n > int64(len(s)) {
		n = int64(len(s)) + 1
	}
	if !given(sep) || sep == nil {
		return m.splitSpace(s, int(n), right)
	}
	by, err := asStr(sep, "")
	if err != nil {
		return nil, err
	}
	if by == "" {
		return nil, errorf("empty separator")
	}
	var parts []string
	for i := int64(0); i < n; i++ {
		at := strings.Index(s, by)
		if right {
			at = strings.LastIndex(s, by)
		}
		if at < 0 {
			break
		}
		if right {
			parts, s = append(parts, s[at+len(by):]), s[:at]
		} else {
			parts, s = append(parts, s[:at]), s[at+len(by):]
		}
	}
	parts = append(parts, s)
	if right {
		slices.Reverse(parts)
	}
	return m.texts(parts)
}

// splitSpace splits at runs of white space and drops those at the ends.
func (m *machine) splitSpace(s string, n int, right bool) (Value, error) {
	var parts []string
	if right {
		s = strings.TrimRightFunc(s, isSpace)
		for ; n > 0 && s != ""; n-- {
			at := strings.LastIndexFunc(s, isSpace)
			if at < 0 {
				break
			}
			_, size := utf8.DecodeRuneInString(s[at:])
			parts, s = append(parts, s[at+size:]), strings.TrimRightFunc(s[:at], isSpace)
		}
	} else {
		s = strings.TrimLeftFunc(s, isSpace)
		for ; n > 0 && s != ""; n-- {
			at := strings.IndexFunc(s, isSpace)
			if at < 0 {
				break
			}
			parts, s = append(parts, s[:at]), strings.TrimLeftFunc(s[at:], isSpace)
		}
	}
	if s != "" {
		parts = append(parts, s)
	}
	if right {
		slices.Reverse(parts)
	}
	return m.texts(parts)
}

func (m *machine) texts(parts []string) (Value, error) {
	l := &List{items: make([]Value, len(parts))}
	for i, p := range parts {
		l.items[i] = p
	}
	return l, m.slots(len(parts))
}

func (m *machine) splitLines(s string, keep bool) (Value, error) {
	var parts []string
	start := 0
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		end := i + n
		switch {
		case r == '\r' && strings.HasPrefix(s[end:], "\n"):
			end++
		case r == '\n', r == '\r', r == '\v', r == '\f', r >= 0x1c && r <= 0x1e, r == 0x85, r == 0x2028, r == 0x2029:
		default:
			i = end
			continue
		}
		if keep {
			parts = append(parts, s[start:end])
		} else {
			parts = append(parts, s[start:i])
		}
		start, i = end, end
	}
	if start < len(s) {
		parts = append(parts, s[start:])
	}
	return m.texts(parts)
}

// affix makes startswith and endswith, which take a text or a tuple of them.
func affix(name string, has func(s, x string) bool) builtin {
	return method(name, 1, []string{"prefix", "start", "end"}, func(m *machine, s string, p []Value) (Value, error) {
		if given(p[1]) || given(p[2]) {
			part, err := between(s, p[1], p[2])
			if err != nil {
				return nil, err
			}
			s = part
		}
		if l, ok := p[0].(*List); ok && l.tuple {
			for _, x := range l.items {
				t, err := asStr(x, "")
				if err != nil || has(s, t) {
					return true, err
				}
			}
			return false, nil
		}
		t, err := asStr(p[0], "")
		return has(s, t), err
	})
}

// between is s[start:end].
func between(s string, start, end Value) (string, error) {
	r := []rune(s)
	var bounds [3]*int64
	for i, v := range []Value{start, end} {
		if given(v) && v != nil {
			n, err := asInt(v, 0)
			if err != nil {
				return "", err
			}
			bounds[i] = &n
		}
	}
	at, err := slicePlaces(len(r), bounds)
	if err != nil || len(at) == 0 {
		return "", err
	}
	return string(r[at[0] : at[len(at)-1]+1]), nil
}

func cutAffix(name string, cut func(s, x string) string) builtin {
	return method(name, 1, []string{"affix"}, func(_ *machine, s string, p []Value) (Value, error) {
		t, err := asStr(p[0], "")
		return cut(s, t), err
	})
}

// strJoin is sep.join(list), which takes texts only.
func (m *machine) strJoin(sep string, v Value) (Value, error) {
	items, err := m.iterate(v)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i, item := range items {
		s, ok := item.(string)
		if !ok {
			return nil, errorf("sequence item %d: expected str instance, %s found", i, typeName(item))
		}
		if i > 0 {
			s = sep + s
		}
		if err := m.add(&b, s); err != nil {
			return nil, err
		}
	}
	return b.String(), nil
}

// find is find, rfind, index and rindex, in characters.
func find(s string, p []Value, last, must bool) (Value, error) {
	sub, err := asStr(p[0], "")
	if err != nil {
		return nil, err
	}
	offset := int64(0)
	if given(p[1]) || given(p[2]) {
		n := int64(utf8.RuneCountInString(s))
		if offset, err = asInt(p[1], 0); err != nil {
			return nil, err
		}
		if offset < 0 {
			offset = max(0, offset+n)
		}
		if s, err = between(s, p[1], p[2]); err != nil {
			return nil, err
		}
	}
	i := strings.Index(s, sub)
	if last {
		i = strings.LastIndex(s, sub)
	}
	if i < 0 {
		if must {
			return nil, errorf("substring not found")
		}
		return int64(-1), nil
	}
	return offset + int64(utf8.RuneCountInString(s[:i])), nil
}

func (m *machine) justify(s string, p []Value, align byte) (Value, error) {
	n, err := asInt(p[0], 0)
	if err != nil {
		return nil, err
	}
	fill, err := asStr(p[1], " ")
	if err != nil {
		return nil, err
	}
	r := []rune(fill)
	if len(r) != 1 {
		return nil, errorf("The fill character must be exactly one character long")
	}
	return m.pad(s, n, r[0], align)
}

func partition(name string, where func(s, sep string) int, last bool) builtin {
	return method(name, 1, []string{"sep"}, func(_ *machine, s string, p []Value) (Value, error) {
		sep, err := asStr(p[0], "")
		if err != nil {
			return nil, err
		}
		if sep == "" {
			return nil, errorf("empty separator")
		}
		parts := []Value{s, "", ""}
		if last {
			parts = []Value{"", "", s}
		}
		if i := where(s, sep); i >= 0 {
			parts = []Value{s[:i], sep, s[i+len(sep):]}
		}
		return &List{items: parts, tuple: true}, nil
	})
}
