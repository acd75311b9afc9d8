package weights_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

func view(d tensor.DType, data []byte, shape ...int) tensor.View {
	return tensor.View{DType: d, Shape: shape, Data: data}
}

// The bytes of a small file, written out: Python's safetensors 0.8.0 reads exactly these.
func TestWriteGolden(t *testing.T) {
	var b bytes.Buffer
	err := weights.Write(&b, []weights.NamedView{
		{Name: "u", View: view(tensor.U8, []byte{1, 2, 3}, 3)},
		{Name: "h", View: view(tensor.BF16, []byte{0, 0, 0x80, 0x3f}, 1, 2)},
		{Name: "none", View: view(tensor.F32, nil, 2, 0)},
		{Name: "s\"\u00e9<", View: view(tensor.F32, []byte{0, 0, 0x80, 0x3f})},
	}, map[string]string{"format": "pt", "by": "test"})
	if err != nil {
		t.Fatal(err)
	}
	header := `{"__metadata__":{"by":"test","format":"pt"},` +
		`"none":{"dtype":"F32","shape":[2,0],"data_offsets":[0,0]},` +
		`"s\"` + "\u00e9" + `\u003c":{"dtype":"F32","shape":[],"data_offsets":[0,4]},` +
		`"h":{"dtype":"BF16","shape":[1,2],"data_offsets":[4,8]},` +
		`"u":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}`
	for (8+len(header))%64 != 0 {
		header += " "
	}
	want := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header+"\x00\x00\x80\x3f\x00\x00\x80\x3f\x01\x02\x03"...)
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("got  %q\nwant %q", b.Bytes(), want)
	}
}

// What is written is read back, with every dtype, and each tensor is aligned to its elements.
func TestWriteRoundTrip(t *testing.T) {
	var list []weights.NamedView
	for d := tensor.F32; d <= tensor.F8E5M2; d++ {
		for n := range 4 {
			data := bytes.Repeat([]byte{byte(d), byte(n), 0x5a}, n*d.Size())
			list = append(list, weights.NamedView{Name: d.String() + string(rune('a'+n)), View: view(d, data, n, 3)})
		}
	}
	for _, meta := range []map[string]string{nil, {"k": "v \u00e9\n\x01"}} {
		var b bytes.Buffer
		if err := weights.Write(&b, list, meta); err != nil {
			t.Fatal(err)
		}
		f, err := weights.Parse("x", b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Names()) != len(list) || len(meta) > 0 && f.Metadata()["k"] != meta["k"] {
			t.Errorf("%d names, metadata %q", len(f.Names()), f.Metadata())
		}
		for _, want := range list {
			got, ok := f.Tensor(want.Name)
			if !ok || !sameView(got, want.View) {
				t.Errorf("%s: got %v, want %v", want.Name, got, want.View)
			}
			if len(got.Data) > 0 && offsetIn(b.Bytes(), got.Data)%got.DType.Size() != 0 {
				t.Errorf("%s is not aligned", want.Name)
			}
		}
	}
	var nothing bytes.Buffer
	if err := weights.Write(&nothing, nil, nil); err != nil {
		t.Error(err)
	}
	if f, err := weights.Parse("x", nothing.Bytes()); err != nil || len(f.Names()) != 0 {
		t.Error("an empty file is not read back:", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	ok := view(tensor.F32, make([]byte, 8), 2)
	cases := map[string][]weights.NamedView{
		"the name is empty":       {{Name: "", View: ok}},
		`"__metadata__": the nam`: {{Name: "__metadata__", View: ok}},
		`"a": the name is empty`:  {{Name: "a", View: ok}, {Name: "a", View: ok}},
		"not UTF-8":               {{Name: "\xff", View: ok}},
		"needs 12 bytes, it has":  {{Name: "a", View: view(tensor.F32, make([]byte, 8), 3)}},
		"[-1 -2] of F32 has no":   {{Name: "a", View: view(tensor.F32, make([]byte, 8), -1, -2)}},
		"of DType(0) has no size": {{Name: "a", View: view(tensor.Invalid, nil, 0)}},
		"has no size":             {{Name: "a", View: view(tensor.F32, nil, math.MaxInt, 4)}},
		"larger than any file": slices.Repeat([]weights.NamedView{
			{Name: "a", View: view(tensor.U8, nil, math.MaxInt)}, {Name: "b", View: view(tensor.U8, nil, math.MaxInt)}}, 1),
		"over the limit": {{Name: strings.Repeat("a", 8<<20), View: ok}},
	}
	for cause, list := range cases {
		var b bytes.Buffer
		err := weights.Write(&b, list, nil)
		if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), cause) || b.Len() > 0 {
			t.Errorf("got %v after %d bytes, want %q", err, b.Len(), cause)
		}
	}
	if err := weights.Write(io.Discard, nil, map[string]string{"k": "\xff"}); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("metadata not UTF-8: %v", err)
	}
}

type brokenPipe struct{ after int }

func (p *brokenPipe) Write(b []byte) (int, error) {
	if p.after -= 1; p.after < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(b), nil
}

func TestWriteFails(t *testing.T) {
	list := []weights.NamedView{{Name: "a", View: view(tensor.U8, []byte{1}, 1)}}
	for after, cause := range []string{"header", `tensor "a"`} {
		err := weights.Write(&brokenPipe{after}, list, nil)
		if !errors.Is(err, io.ErrClosedPipe) || !strings.Contains(err.Error(), cause) {
			t.Errorf("got %v, want %q", err, cause)
		}
	}
}
