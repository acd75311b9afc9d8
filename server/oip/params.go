package oip

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/pimoe/pimoe/server/strictjson"
)

// scalar is a parameter's value as Go's own type.
func scalar(v strictjson.Value) (any, error) {
	switch {
	case v.IsString():
		return v.Text()
	case v.IsNumber():
		if n, err := v.Int(math.MinInt64, math.MaxInt64); err == nil {
			return n, nil
		}
		return v.Float(math.Inf(-1), math.Inf(1))
	case v.Null() || v.IsArray() || v.IsObject():
		return nil, v.Errorf("a string, a number or a boolean")
	}
	return v.Bool()
}

// eachParam gives every parameter to set, with its path.
func eachParam(v strictjson.Value, set func(name string, value any, path string) error) error {
	members, err := v.Object()
	if err != nil {
		return err
	}
	for _, p := range members {
		value, err := scalar(p.Value)
		if err != nil {
			return err
		}
		if err := set(p.Name, value, p.Path()); err != nil {
			return err
		}
	}
	return nil
}

func (q *Request) readParams(v strictjson.Value, m Model) error {
	return eachParam(v, func(name string, value any, _ string) error { return q.setParam(name, value, m) })
}

// maxTimeout bounds the parameter timeout, which a server's own limit bounds further.
const maxTimeout = 1000 * time.Hour

// setParam takes a parameter of the request: one of the protocol's own, or one that the model lists.
func (q *Request) setParam(name string, value any, m Model) error {
	path := "parameters." + name
	want := func(expected string) error {
		return &strictjson.Error{Path: path, Expected: expected, Got: fmt.Sprintf("%.32v", value)}
	}
	n, whole := value.(int64)
	flag, boolean := value.(bool)
	switch name {
	case "timeout":
		if !whole || n < 1 {
			return want("microseconds, a whole number above 0")
		}
		q.Timeout = time.Duration(min(n, maxTimeout.Microseconds())) * time.Microsecond
	case "binary_data_output":
		if q.binary = flag; !boolean {
			return want("true or false")
		}
	case "triton_enable_empty_final_response":
		if q.Final = flag; !boolean {
			return want("true or false")
		}
	case "priority", "sequence_id":
		if value != int64(0) && value != "" {
			return &strictjson.Error{Code: strictjson.UnsupportedValue, Path: path, Expected: "0: requests here have neither priorities nor sequences", Got: fmt.Sprintf("%.32v", value)}
		}
	case "sequence_start", "sequence_end":
		if value != false {
			return &strictjson.Error{Code: strictjson.UnsupportedValue, Path: path, Expected: "false: requests here are in no sequence", Got: fmt.Sprintf("%.32v", value)}
		}
	default:
		s := find(m.Params, name)
		if s == nil {
			return unknown("parameters", name, "a parameter of this model: "+list(m.Params))
		}
		value, err := s.fit(value, path)
		if err != nil {
			return err
		}
		if q.Params == nil {
			q.Params = map[string]any{}
		}
		q.Params[name] = value
	}
	return nil
}

// fit is a parameter's value in the type of its spec.
func (s *Spec) fit(value any, path string) (any, error) {
	ok := false
	switch s.Type {
	case FP32:
		if n, whole := value.(int64); whole {
			value = float64(n)
		}
		var f float64
		f, ok = value.(float64)
		ok = ok && f-f == 0
	case Bool:
		_, ok = value.(bool)
	case Bytes:
		_, ok = value.(string)
	default:
		_, ok = value.(int64)
	}
	if !ok {
		return nil, &strictjson.Error{Path: path, Expected: "a value of " + string(s.Type), Got: fmt.Sprintf("%.32v", value)}
	}
	return value, nil
}

func unknown(path, name, expected string) error {
	return &strictjson.Error{Code: strictjson.UnknownField, Path: path, Expected: expected, Got: fmt.Sprintf("%.64q", name)}
}

// list names specs for an error.
func list(specs []Spec) string {
	var names []string
	for _, s := range specs {
		names = append(names, s.Name)
	}
	if names == nil {
		return "there are none"
	}
	return strings.Join(names, ", ")
}
