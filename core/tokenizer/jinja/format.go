package jinja

import (
	"math"
	"math/big"
	"strconv"
	"strings"

	"golang.org/x/text/cases"
)

func foldText(s string) string { return cases.Fold().String(s) }

// layout is how one value is written: by a conversion of % or a format specification.
type layout struct {
	fill   rune
	align  byte // <, >, ^, = or 0
	sign   byte // +, space or 0
	alt    bool
	width  int64
	prec   int // -1: not given
	comma  bool
	letter byte // 0: as str
}

// percent is text % value.
func (m *machine) percent(s string, v Value) (Value, error) {
	values := []Value{v}
	l, isTuple := v.(*List)
	if isTuple = isTuple && l.tuple; isTuple {
		values = l.items
	}
	var b strings.Builder
	used := 0
	for i := 0; i < len(s); i++ {
		j := strings.IndexByte(s[i:], '%')
		if j < 0 {
			j = len(s) - i
		}
		if err := m.add(&b, s[i:i+j]); err != nil {
			return nil, err
		}
		if i += j; i >= len(s) {
			break
		}
		spec, key, n, err := percentSpec(s[i+1:])
		if err != nil {
			return nil, err
		}
		i += n
		if spec.letter == '%' {
			b.WriteByte('%')
			continue
		}
		var x Value
		if key != nil {
			d, ok := v.(*Dict)
			if !ok {
				return nil, errorf("format requires a mapping")
			}
			if x, ok = d.Get(*key); !ok {
				return nil, errorf("key '%s' is missing", *key)
			}
			used = len(values)
		} else {
			if used >= len(values) {
				return nil, errorf("not enough arguments for format string")
			}
			x = values[used]
			used++
		}
		text, err := m.layOut(spec, x)
		if err != nil {
			return nil, err
		}
		if err := m.add(&b, text); err != nil {
			return nil, err
		}
	}
	// Python takes everything with indices but a tuple or a text for a mapping, which may stay unused.
	mapping := false
	switch v.(type) {
	case *Dict, *undefined:
		mapping = true
	case *List:
		mapping = !isTuple
	}
	if used < len(values) && !mapping {
		return nil, errorf("not all arguments converted during string formatting")
	}
	return b.String(), nil
}

// percentSpec reads a conversion after its %; n is its length.
func percentSpec(s string) (l layout, key *string, n int, err error) {
	l = layout{fill: ' ', align: '>', prec: -1}
	if strings.HasPrefix(s, "(") {
		end := strings.IndexByte(s, ')')
		if end < 0 {
			return l, nil, 0, errorf("incomplete format key")
		}
		k := s[1:end]
		key, n = &k, end+1
	}
	left, zero := false, false
flags:
	for ; n < len(s); n++ {
		switch s[n] {
		case '-':
			left = true
		case '0':
			zero = true
		case '+':
			l.sign = '+'
		case ' ':
			if l.sign == 0 {
				l.sign = ' '
			}
		case '#':
			l.alt = true
		default:
			break flags
		}
	}
	w, used := leadingInt(s[n:])
	l.width = w
	n += used
	if n < len(s) && s[n] == '.' {
		p, used := leadingInt(s[n+1:])
		l.prec = int(p)
		n += 1 + used
	}
	if n >= len(s) {
		return l, nil, 0, errorf("incomplete format")
	}
	l.letter = s[n]
	if !strings.ContainsRune("sdifFeEgGxXorc%au", rune(l.letter)) {
		return l, nil, 0, errorf("unsupported format character '%c'", l.letter)
	}
	switch {
	case left:
		l.align = '<'
	case zero && !strings.ContainsRune("sra", rune(l.letter)):
		l.align, l.fill = '=', '0'
	}
	if l.letter == 'i' || l.letter == 'u' {
		l.letter = 'd'
	}
	return l, key, n + 1, nil
}

func leadingInt(s string) (int64, int) {
	n, v := 0, int64(0)
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		v = min(v*10+int64(s[n]-'0'), MaxOutput+1)
		n++
	}
	return v, n
}

// layOut writes one value.
func (m *machine) layOut(l layout, v Value) (string, error) {
	if u, ok := v.(*undefined); ok && l.letter != 's' && l.letter != 0 {
		return "", u.err()
	}
	if l.prec > 1000 {
		return "", errorf("precision of %d", l.prec)
	}
	sign, digits, err := convert(l, v)
	if err != nil {
		return "", err
	}
	if l.align == '=' {
		padded, err := m.pad(digits, l.width-int64(len(sign)), l.fill, '>')
		if err != nil {
			return "", err
		}
		return sign + padded.(string), nil
	}
	padded, err := m.pad(sign+digits, l.width, l.fill, l.align)
	if err != nil {
		return "", err
	}
	return padded.(string), nil
}

// convert is a value as a sign and the rest.
func convert(l layout, v Value) (sign, digits string, err error) {
	switch l.letter {
	case 's', 0, 'r', 'a':
		digits, err = str(v)
		if l.letter == 'r' || l.letter == 'a' {
			digits, err = repr(v, 0)
		}
		if r := []rune(digits); l.prec >= 0 && l.prec < len(r) {
			digits = string(r[:l.prec])
		}
		return "", digits, err
	case 'c':
		if s, ok := v.(string); ok && len([]rune(s)) == 1 {
			return "", s, nil
		}
		n, err := asInt(v, 0)
		if n < 0 || n > 0x10ffff {
			return "", "", errorf("%%c arg not in range")
		}
		return "", string(rune(n)), err
	case 'd', 'x', 'X', 'o', 'b':
		return convertInt(l, v)
	case 'f', 'F', 'e', 'E', 'g', 'G', '%':
		return convertFloat(l, v)
	}
	return "", "", errorf("unknown format code '%c'", l.letter)
}

func convertInt(l layout, v Value) (sign, digits string, err error) {
	var n *big.Int
	switch x := v.(type) {
	case *big.Int:
		n = x
	case float64:
		if l.letter != 'd' || math.IsInf(x, 0) || math.IsNaN(x) {
			return "", "", errorf("format %c of a float", l.letter)
		}
		n, _ = big.NewFloat(math.Trunc(x)).Int(nil)
	default:
		i, _, _, ok := number(v)
		if !ok {
			return "", "", errorf("%%%c format: a real number is required, not %s", l.letter, typeName(v))
		}
		n = big.NewInt(i)
	}
	base := map[byte]int{'d': 10, 'x': 16, 'X': 16, 'o': 8, 'b': 2}[l.letter]
	digits = new(big.Int).Abs(n).Text(base)
	if l.letter == 'X' {
		digits = strings.ToUpper(digits)
	}
	if len(digits) < l.prec {
		digits = strings.Repeat("0", l.prec-len(digits)) + digits
	}
	if l.comma {
		digits = grouped(digits)
	}
	if l.alt && base != 10 {
		digits = "0" + string(l.letter) + digits
	}
	return signOf(l, n.Sign() < 0), digits, nil
}

func convertFloat(l layout, v Value) (sign, digits string, err error) {
	_, f, _, ok := number(v)
	if !ok {
		return "", "", errorf("must be real number, not %s", typeName(v))
	}
	prec := l.prec
	if prec < 0 {
		prec = 6
	}
	verb, suffix := l.letter, ""
	if verb == '%' {
		verb, suffix, f = 'f', "%", f*100
	}
	a := math.Abs(f)
	switch {
	case math.IsNaN(f):
		digits = "nan"
	case math.IsInf(a, 0):
		digits = "inf"
	case verb == 'g' || verb == 'G':
		digits = general(a, max(prec, 1), verb)
	default:
		digits = strconv.FormatFloat(a, verb|0x20, prec, 64)
	}
	if verb == 'E' {
		digits = strings.ToUpper(digits)
	}
	if l.comma {
		whole, frac, point := strings.Cut(digits, ".")
		if digits = grouped(whole); point {
			digits += "." + frac
		}
	}
	return signOf(l, math.Signbit(f) && !math.IsNaN(f)), digits + suffix, nil
}

// general is %g of C.
func general(a float64, prec int, verb byte) string {
	if a == 0 {
		return "0"
	}
	e := strconv.FormatFloat(a, 'e', prec-1, 64)
	_, tail, _ := strings.Cut(e, "e")
	exp, _ := strconv.Atoi(tail)
	s := ""
	if exp < -4 || exp >= prec {
		mantissa, _, _ := strings.Cut(e, "e")
		if strings.Contains(mantissa, ".") {
			mantissa = strings.TrimRight(strings.TrimRight(mantissa, "0"), ".")
		}
		s = mantissa + "e" + tail
	} else {
		s = strconv.FormatFloat(a, 'f', max(prec-1-exp, 0), 64)
		if strings.Contains(s, ".") {
			s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
		}
	}
	if verb == 'G' {
		s = strings.ToUpper(s)
	}
	return s
}

func signOf(l layout, negative bool) string {
	switch {
	case negative:
		return "-"
	case l.sign != 0:
		return string(l.sign)
	}
	return ""
}

func grouped(digits string) string {
	var b strings.Builder
	for i, c := range []byte(digits) {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// strFormat is str.format.
func strFormat(m *machine, v Value, a args) (Value, error) {
	s, ok := v.(string)
	if !ok {
		return nil, errorf("format of a '%s' object", typeName(v))
	}
	var b strings.Builder
	auto := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		double := i+1 < len(s) && s[i+1] == c
		switch {
		case (c == '{' || c == '}') && double:
			i++
		case c == '}':
			return nil, errorf("Single '}' encountered in format string")
		case c == '{':
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return nil, errorf("expected '}' before end of string")
			}
			text, err := m.field(s[i+1:i+end], a, &auto)
			if err != nil {
				return nil, err
			}
			if err := m.add(&b, text); err != nil {
				return nil, err
			}
			i += end
			continue
		}
		if err := m.add(&b, s[i:i+1]); err != nil {
			return nil, err
		}
	}
	return b.String(), nil
}

// field is one replacement field of str.format, without its braces.
func (m *machine) field(f string, a args, auto *int) (string, error) {
	f, spec, _ := strings.Cut(f, ":")
	f, conv, hasConv := strings.Cut(f, "!")
	if strings.ContainsAny(f, ".[") || strings.Contains(spec, "{") {
		return "", unsupported("format field %q", f)
	}
	var v Value
	if n, ok := digits(f); ok || f == "" {
		// auto counts up from 0, or is -1 once a number was written.
		if f == "" && *auto < 0 || f != "" && *auto > 0 {
			return "", errorf("cannot switch between manual field specification and automatic field numbering")
		}
		if f == "" {
			n = int64(*auto)
			*auto++
		} else {
			*auto = -1
		}
		if n >= int64(len(a.pos)) {
			return "", errorf("Replacement index %d out of range for positional args tuple", n)
		}
		v = a.pos[n]
	} else {
		found := false
		for _, k := range a.kw {
			if k.name == f {
				v, found = k.value, true
			}
		}
		if !found {
			return "", errorf("key '%s' is missing", f)
		}
	}
	if hasConv {
		var err error
		switch conv {
		case "r", "a":
			v, err = repr(v, 0)
		case "s":
			v, err = str(v)
		default:
			err = errorf("Unknown conversion specifier '%s'", conv)
		}
		if err != nil {
			return "", err
		}
	}
	return m.formatSpec(spec, v)
}

// formatSpec is format(v, spec).
func (m *machine) formatSpec(spec string, v Value) (string, error) {
	if spec == "" {
		return str(v)
	}
	l := layout{fill: ' ', prec: -1}
	r := []rune(spec)
	if len(r) > 1 && strings.ContainsRune("<>^=", r[1]) {
		l.fill, l.align, spec = r[0], byte(r[1]), string(r[2:])
	} else if strings.ContainsRune("<>^=", r[0]) {
		l.align, spec = byte(r[0]), string(r[1:])
	}
	take := func(set string) byte {
		if spec != "" && strings.IndexByte(set, spec[0]) >= 0 {
			c := spec[0]
			spec = spec[1:]
			return c
		}
		return 0
	}
	if c := take("+- "); c != '-' {
		l.sign = c
	}
	l.alt = take("#") != 0
	if take("0") != 0 && l.align == 0 {
		l.fill, l.align = '0', '='
	}
	w, n := leadingInt(spec)
	l.width, spec = w, spec[n:]
	l.comma = take(",") != 0
	if take(".") != 0 {
		p, n := leadingInt(spec)
		l.prec, spec = int(p), spec[n:]
	}
	l.letter = take("sdfFeEgGxXobc%")
	if spec != "" {
		return "", unsupported("format specification %q", string(r))
	}
	_, _, isFloat, isNumber := number(v)
	if l.letter == 0 && isNumber {
		switch {
		case isFloat && l.prec >= 0:
			l.letter = 'g'
		case !isFloat:
			l.letter = 'd'
		}
	}
	if l.align == 0 {
		l.align = '<'
		if isNumber {
			l.align = '>'
		}
	}
	return m.layOut(l, v)
}
