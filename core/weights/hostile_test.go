package weights_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// file is a safetensors file with this header and so many bytes of data.
func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

// one is a header with one tensor "a" of these three values.
func one(dtype, shape, offsets string) string {
	return fmt.Sprintf(`{"a":{"dtype":%s,"shape":%s,"data_offsets":%s}}`, dtype, shape, offsets)
}

const (
	aTensor = `"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`
	bTensor = `"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}`
)

var hostile = []struct {
	name  string
	file  []byte
	cause string
}{
	{"empty file", nil, "too short"},
	{"seven bytes", make([]byte, 7), "too short"},
	{"no header", make([]byte, 8), "does not begin with {"},
	{"header over the limit", append(binary.LittleEndian.AppendUint64(nil, 8<<20+1), make([]byte, 8<<20+1)...), "over the limit"},
	{"header of 2^64-1", append(binary.LittleEndian.AppendUint64(nil, math.MaxUint64), '{', '}'), "over the limit"},
	{"header longer than the file", append(binary.LittleEndian.AppendUint64(nil, 100), '{', '}'), "longer than the file"},
	{"header begins with a space", file(" {}", 0), "does not begin with {"},
	{"not UTF-8", file("{\"a\xff\":1}", 0), "not UTF-8"},
	{"header ends early", file(`{"a":{"dtype":"F32"`, 0), "ends where"},
	{"empty text", file(`{`, 0), "ends where"},
	{"second value", file(`{}{}`, 0), "the end is expected"},
	{"padding with zeros", file("{}\x00\x00", 0), "the end is expected"},
	{"trailing comma", file(`{`+aTensor+`,}`, 8), "a string is expected"},
	{"missing comma", file(`{`+aTensor+bTensor+`}`, 16), "} is expected"},
	{"key no string", file(`{1:2}`, 0), "a string is expected"},
	{"control character in a name", file("{\"a\nb\":1}", 0), "control character"},
	{"broken escape", file(`{"a\x":1}`, 0), "broken escape"},
	{"lone surrogate", file(`{"a\ud800":1}`, 0), "broken escape"},
	{"two low surrogates", file(`{"a\udc00\udc00":1}`, 0), "broken escape"},
	{"half an escape", file(`{"a\u12`, 0), "broken escape"},
	{"signed escape", file(`{"a\u+123":1}`, 0), "broken escape"},
	{"duplicate tensor", file(`{`+aTensor+`,"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}`, 16), `duplicate key "a"`},
	{"duplicate tensor by escape", file(`{`+aTensor+`,"\u0061":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}`, 16), `duplicate key "a"`},
	{"duplicate field", file(`{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}`, 8), `duplicate key "dtype"`},
	{"duplicate metadata", file(`{"__metadata__":{"x":"1","x":"2"}}`, 0), `duplicate key "x"`},
	{"metadata twice", file(`{"__metadata__":{},"__metadata__":{}}`, 0), `duplicate key "__metadata__"`},
	{"metadata is a tensor", file(`{"__metadata__":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8), `value of "shape" is no string`},
	{"metadata nested", file(`{"__metadata__":{"x":{"y":"z"}}}`, 0), `value of "x" is no string`},
	{"metadata null", file(`{"__metadata__":null}`, 0), "{ is expected"},
	{"tensor is a list", file(`{"a":[]}`, 0), "{ is expected"},
	{"deep nesting", file(`{"a":`+strings.Repeat("[", 1<<20)+`}`, 0), "{ is expected"},
	{"unknown field", file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"stride":[1]}}`, 8), `unknown field "stride"`},
	{"field in other case", file(`{"a":{"Dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8), `unknown field "Dtype"`},
	{"no dtype", file(`{"a":{"shape":[2],"data_offsets":[0,8]}}`, 8), "has no dtype"},
	{"no shape", file(`{"a":{"dtype":"F32","data_offsets":[0,8]}}`, 8), "has no shape"},
	{"no offsets", file(`{"a":{"dtype":"F32","shape":[2]}}`, 8), "has no data_offsets"},
	{"unknown dtype", file(one(`"F31"`, `[2]`, `[0,8]`), 8), `unknown dtype "F31"`},
	{"dtype in lower case", file(one(`"f32"`, `[2]`, `[0,8]`), 8), `unknown dtype "f32"`},
	{"dtype a number", file(one(`4`, `[2]`, `[0,8]`), 8), "dtype: byte"},
	{"negative dimension", file(one(`"F32"`, `[-2]`, `[0,8]`), 8), "negative"},
	{"fraction", file(one(`"F32"`, `[2.0]`, `[0,8]`), 8), "no integer"},
	{"exponent", file(one(`"F32"`, `[2e0]`, `[0,8]`), 8), "no integer"},
	{"leading zero", file(one(`"F32"`, `[02]`, `[0,8]`), 8), "leading zero"},
	{"dimension of 2^63", file(one(`"F32"`, `[9223372036854775808]`, `[0,8]`), 8), "number overflows"},
	{"dimension of 30 digits", file(one(`"F32"`, `[`+strings.Repeat("9", 30)+`]`, `[0,8]`), 8), "number overflows"},
	{"product overflows to 8", file(one(`"F32"`, `[4294967296,4294967296,2]`, `[0,8]`), 8), "overflows"},
	{"product times size overflows", file(one(`"F32"`, `[4611686018427387904]`, `[0,0]`), 0), "overflows"},
	{"empty, but overflows", file(one(`"F32"`, `[0,4611686018427387904,4]`, `[0,0]`), 0), "overflows"},
	{"shape too small", file(one(`"F32"`, `[1]`, `[0,8]`), 8), "needs 4 bytes"},
	{"shape too large", file(one(`"F32"`, `[3]`, `[0,8]`), 8), "needs 12 bytes"},
	{"shape is a string", file(one(`"F32"`, `"2"`, `[0,8]`), 8), "[ is expected"},
	{"one offset", file(one(`"F32"`, `[2]`, `[8]`), 8), "has 1 numbers"},
	{"three offsets", file(one(`"F32"`, `[2]`, `[0,8,8]`), 8), "more than 2 numbers"},
	{"negative offset", file(one(`"F32"`, `[2]`, `[-8,0]`), 8), "negative"},
	{"offsets run backwards", file(one(`"F32"`, `[2]`, `[8,0]`), 8), "run backwards"},
	{"offset overflows", file(one(`"F32"`, `[2]`, `[0,18446744073709551624]`), 8), "number overflows"},
	{"truncated data", file(one(`"F32"`, `[2]`, `[0,8]`), 7), "out of range"},
	{"offset far away", file(one(`"F32"`, `[2]`, `[9223372036854775799,9223372036854775807]`), 8), "out of range"},
	{"trailing bytes", file(one(`"F32"`, `[2]`, `[0,8]`), 9), "1 trailing bytes"},
	{"data without tensors", file(`{}`, 4), "4 trailing bytes"},
	{"hole at the start", file(one(`"F32"`, `[2]`, `[8,16]`), 16), "leave a hole: bytes 0 to 8"},
	{"hole between", file(`{`+aTensor+`,"b":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}}`, 10), "leave a hole: bytes 8 to 9"},
	{"overlap", file(`{`+aTensor+`,"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}`, 12), `overlap tensor "a"`},
	{"same bytes twice", file(`{`+aTensor+`,"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8), `overlap tensor "a"`},
	{"tensor inside another", file(`{`+aTensor+`,"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}`, 8), `overlap tensor "a"`},
	{"empty tensor inside another", file(`{`+aTensor+`,"b":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}`, 8), `overlap tensor "a"`},
}

// Each hostile file is refused with its cause and its name, by each way of opening it.
func TestHostileFiles(t *testing.T) {
	dir := t.TempDir()
	for _, c := range hostile {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, "hostile.safetensors")
			if err := os.WriteFile(path, c.file, 0o600); err != nil {
				t.Fatal(err)
			}
			opened, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer opened.Close()
			_, parse := weights.Parse(path, c.file)
			_, open := weights.Open(path)
			_, read := weights.Read(path)
			_, openFile := weights.OpenFile(opened, path)
			_, scan := weights.Scan(opened, path)
			for way, err := range map[string]error{"Parse": parse, "Open": open, "Read": read, "OpenFile": openFile, "Scan": scan} {
				if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), c.cause) || !strings.Contains(err.Error(), path) {
					t.Errorf("%s: got %v, want %q and the file's name", way, err, c.cause)
				}
			}
		})
	}
}

// An error about a tensor names it, and a name of megabytes does not make an error of megabytes.
func TestErrorsNameTheTensor(t *testing.T) {
	_, err := weights.Parse("x.safetensors", file(one(`"F32"`, `[3]`, `[0,8]`), 8))
	if err == nil || !strings.Contains(err.Error(), `x.safetensors: tensor "a":`) {
		t.Errorf("got %v", err)
	}
	long := strings.Repeat("n", 1<<20)
	_, err = weights.Parse("x", file(`{"`+long+`":{"dtype":"`+long+`"}}`, 0))
	if err == nil || len(err.Error()) > 1000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
	_, err = weights.Parse("x", file(`{"a":{"dtype":"F32","shape":[`+strings.Repeat("1,", 1<<20)+`1],"data_offsets":[0,8]}}`, 8))
	if err == nil || len(err.Error()) > 1000 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

// What the format allows is read: padding, any order, empty tensors, scalars, escapes, unaligned data.
func TestUnusualFiles(t *testing.T) {
	cases := []struct {
		name, header string
		data         int
		want         map[string]weights.Extent // offsets from the start of the data
	}{
		{"nothing", `{}`, 0, map[string]weights.Extent{}},
		{"metadata alone, padded", `{"__metadata__":{"format":"pt"}}      `, 0, map[string]weights.Extent{}},
		{"scalar", one(`"F64"`, `[]`, `[0,8]`), 8, map[string]weights.Extent{"a": {DType: tensor.F64, Shape: []int{}, Length: 8}}},
		{"white space", "{ \"a\" : {\t\"dtype\" : \"U8\" ,\n\"shape\" : [ 1 , 1 ] , \"data_offsets\" : [ 0 , 1 ] }\r} ", 1,
			map[string]weights.Extent{"a": {DType: tensor.U8, Shape: []int{1, 1}, Length: 1}}},
		{"fields and tensors in another order", `{` + bTensor + `,"a":{"data_offsets":[0,8],"shape":[2],"dtype":"F32"}}`, 16,
			map[string]weights.Extent{"a": {DType: tensor.F32, Shape: []int{2}, Length: 8}, "b": {DType: tensor.F32, Shape: []int{2}, Offset: 8, Length: 8}}},
		{"empty tensors", `{"z":{"dtype":"F32","shape":[0,3],"data_offsets":[8,8]},` + aTensor + `,"y":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}`, 8,
			map[string]weights.Extent{"z": {DType: tensor.F32, Shape: []int{0, 3}, Offset: 8}, "a": {DType: tensor.F32, Shape: []int{2}, Length: 8}, "y": {DType: tensor.F32, Shape: []int{0}}}},
		{"escapes in a name", `{"\u00e9\ud83d\ude00\"\n\/":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1,
			map[string]weights.Extent{"\u00e9\U0001f600\"\n/": {DType: tensor.U8, Shape: []int{1}, Length: 1}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := file(c.header, c.data)
			for i := range c.data {
				b[8+len(c.header)+i] = byte(i)
			}
			f, err := weights.Parse("x", b)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if len(f.Names()) != len(c.want) {
				t.Fatalf("names %q", f.Names())
			}
			for name, e := range c.want {
				v, ok := f.Tensor(name)
				at := int64(8+len(c.header)) + e.Offset
				want := tensor.View{DType: e.DType, Shape: e.Shape, Data: b[at : at+e.Length]}
				if !ok || !sameView(v, want) {
					t.Errorf("%q: got %v, want %v", name, v, want)
				}
			}
		})
	}
}

// No change of a single byte of a header, and no cut, makes the reader panic or accept overlapping tensors.
func TestMutatedHeader(t *testing.T) {
	good := file(`{"__metadata__":{"k":"v"},`+aTensor+`,`+bTensor+`,"c":{"dtype":"U8","shape":[0,7],"data_offsets":[16,16]}}`, 16)
	accepted := 0
	for i := range len(good) - 16 {
		for c := range 256 {
			b := bytes.Clone(good)
			b[i] = byte(c)
			if judge(t, b) {
				accepted++
			}
		}
		if judge(t, good[:i]) {
			t.Errorf("accepted when cut at %d", i)
		}
	}
	if accepted < len(good)-16 {
		t.Errorf("only %d accepted: not even the unchanged ones", accepted)
	}
}

// judge parses b. If it is accepted, the tensors must cover the data exactly and be readable to the last byte.
func judge(t *testing.T, b []byte) bool {
	f, err := weights.Parse("fuzz", b)
	if err != nil {
		if !errors.Is(err, sdk.ErrInvalid) || len(err.Error()) > 4096 {
			t.Fatalf("not a fit error: %v", err)
		}
		return false
	}
	defer f.Close()
	covered, sum := 0, byte(0)
	used := make([]bool, len(b))
	for _, name := range f.Names() {
		v, ok := f.Tensor(name)
		if !ok || v.DType.Size() == 0 || slices.ContainsFunc(v.Shape, func(d int) bool { return d < 0 }) {
			t.Fatalf("tensor %q: %v", name, v)
		}
		if v.Packing != "" {
			if err := pack.Check(v); err != nil {
				t.Fatalf("tensor %q: %v", name, err)
			}
		} else if v.Elems()*v.DType.Size() != len(v.Data) {
			t.Fatalf("tensor %q: shape %v of %s, %d bytes", name, v.Shape, v.DType, len(v.Data))
		}
		if len(v.Data) == 0 {
			continue
		}
		at := offsetIn(b, v.Data)
		for i, c := range v.Data {
			if used[at+i] {
				t.Fatalf("tensor %q overlaps another", name)
			}
			used[at+i], sum = true, sum+c
		}
		covered += len(v.Data)
		if _, packed := f.Metadata()["packed:"+name]; packed {
			covered += -len(v.Data) & 63 // what fills its last line
		}
	}
	if header := int(binary.LittleEndian.Uint64(b)); 8+header+covered != len(b) {
		t.Fatalf("%d of %d data bytes covered", covered, len(b)-8-header)
	}
	return true
}

// offsetIn is where view begins in b, which it points into.
func offsetIn(b, view []byte) int {
	at := int(uintptr(unsafe.Pointer(&view[0])) - uintptr(unsafe.Pointer(&b[0])))
	if at < 0 || at+len(view) > len(b) {
		panic("the view is not in the file")
	}
	return at
}

// FuzzParse looks for bytes that make the reader panic, or accept tensors that overlap or can't be read.
func FuzzParse(f *testing.F) {
	for _, c := range hostile {
		if len(c.file) < 4096 {
			f.Add(c.file)
		}
	}
	for _, c := range hostilePacked {
		f.Add(packedBytes(c.text, c.tensor, c.bytes))
	}
	f.Add(packedBytes("n16 F32 2 2", `"dtype":"U8","shape":[128],"data_offsets":[0,128]`, 128))
	f.Add(file(`{`+aTensor+`,`+bTensor+`}`, 16))
	f.Add(file(`{"__metadata__":{"format":"pt"},"z":{"dtype":"BF16","shape":[0],"data_offsets":[0,0]}}  `, 0))
	if b, err := os.ReadFile(coretest.Golden(f, "models", "granitemoe", "model.safetensors")); err == nil {
		f.Add(b[:min(len(b), 8192)])
	}
	f.Fuzz(func(t *testing.T, b []byte) { judge(t, b) })
}

// FuzzIndex does the same for an index, whose shards must stay inside the folder.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":8},"weight_map":{"a":"model-1.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":"../../etc/passwd"}}`))
	f.Add([]byte(`{"weight_map":{"a":"model-1.safetensors","a":"x"},"x":[[[[null,1e5,{"y":true}]]]]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		for name, content := range map[string][]byte{"model-1.safetensors": file(`{`+aTensor+`}`, 8), "model.safetensors.index.json": b} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ck, err := weights.OpenCheckpoint(dir)
		if err != nil {
			if !errors.Is(err, sdk.ErrInvalid) {
				t.Fatalf("not a fit error: %v", err)
			}
			return
		}
		defer ck.Close()
		if !slices.Equal(ck.Names(), []string{"a"}) {
			t.Fatalf("names %q", ck.Names())
		}
	})
}
