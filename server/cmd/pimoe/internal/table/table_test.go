package table

import (
	"bytes"
	"testing"
)

func TestWrite(t *testing.T) {
	var out bytes.Buffer
	if err := Write(&out, []string{"NAME", "N"}, [][]string{{"a\tb\x1b[2J", "1"}, {"long name here", "22"}, {"only"}}); err != nil {
		t.Fatal(err)
	}
	want := "NAME            N\na b?[2J         1\nlong name here  22\nonly\n"
	if out.String() != want {
		t.Errorf("got\n%q\nwant\n%q", out.String(), want)
	}
}

func TestJSON(t *testing.T) {
	var out bytes.Buffer
	if err := JSON(&out, map[string]string{"t": "<a> & \u00e9"}); err != nil || out.String() != "{\"t\":\"<a> & \u00e9\"}\n" {
		t.Errorf("%q %v", out.String(), err)
	}
	if err := JSON(&out, func() {}); err == nil {
		t.Error("a function became JSON")
	}
}
