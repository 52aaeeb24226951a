package safetensors_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/seerattn"
	"example.com/seerattn/safetensors"
)

func file(header string, data ...byte) []byte {
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), data...)
}

func open(content []byte) (*safetensors.File, error) {
	return safetensors.New(bytes.NewReader(content), int64(len(content)))
}

func TestRead(t *testing.T) {
	// The data begins at an odd address, and the tensors in it at odd offsets.
	content := file(`{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[1,2],"data_offsets":[1,9]},`+
		`"u":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"empty":{"dtype":"BF16","shape":[0,7],"data_offsets":[9,9]}}`,
		7, 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0)
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if names := f.Names(); !slices.Equal(names, []string{"empty", "u", "x"}) {
		t.Errorf("names %q", names)
	}
	x, err := f.Tensor("x")
	if err != nil {
		t.Fatal(err)
	}
	if values, err := seerattn.Elements[float32](x); err != nil || !slices.Equal(values, []float32{1, -2}) {
		t.Errorf("x is %v, %v", values, err)
	}
	if u, err := f.Tensor("u"); err != nil || !bytes.Equal(u.Bytes(), []byte{7}) {
		t.Errorf("u is %v, %v", u.Bytes(), err)
	}
	if e, err := f.Tensor("empty"); err != nil || !slices.Equal(e.Shape(), []int{0, 7}) || len(e.Bytes()) != 0 {
		t.Errorf("empty is %v, %v", e.Shape(), err)
	}
}

func TestMalformed(t *testing.T) {
	one := func(fields string) []byte { return file(`{"x":{`+fields+`}}`, 0, 0, 0, 0) }
	for text, content := range map[string][]byte{
		"too short for a header":       []byte("1234567"),
		"the header has 9 bytes":       binary.LittleEndian.AppendUint64(nil, 9),
		"the header has 1844674407370": binary.LittleEndian.AppendUint64(nil, 1<<64-1),
		"no JSON object":               file(`[]`),
		"from byte 0 to 5 of 4":        one(`"dtype":"F32","shape":[1],"data_offsets":[0,5]`),
		"from byte -4 to 0":            one(`"dtype":"F32","shape":[1],"data_offsets":[-4,0]`),
		"from byte 3 to 1":             one(`"dtype":"F32","shape":[1],"data_offsets":[3,1]`),
		"unknown field":                one(`"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1`),
		"cannot unmarshal":             one(`"dtype":"F32","shape":[1.5],"data_offsets":[0,4]`),
		"has dtype \"F64\"":            one(`"dtype":"F64","shape":[1],"data_offsets":[0,4]`),
		"of F32 [2] has 4 bytes":       one(`"dtype":"F32","shape":[2],"data_offsets":[0,4]`),
		"has shape [-1]":               one(`"dtype":"F32","shape":[-1],"data_offsets":[0,4]`),
		"has shape [4611686018427387904 4611686018427387904]": one(
			`"dtype":"U8","shape":[4611686018427387904,4611686018427387904],"data_offsets":[0,4]`),
		"has 5 dimensions":       one(`"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]`),
		"there is no tensor \"x": file(`{}`),
	} {
		f, err := open(content)
		if err == nil {
			_, err = f.Tensor("x")
		}
		if !errors.Is(err, seerattn.ErrFormat) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v; expected %q", err, text)
		}
	}
	if _, err := safetensors.Open(filepath.Join(t.TempDir(), "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	short := file(`{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0, 0)
	f, err := safetensors.New(bytes.NewReader(short[:len(short)-1]), int64(len(short)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Tensor("x"); err == nil {
		t.Error("a tensor of a file that was cut meanwhile was read")
	}
}

func FuzzNew(f *testing.F) {
	f.Add(file(`{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 0, 0, 0, 0))
	f.Add(file(`{"x":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]},"__metadata__":{}}`, 1, 2, 3, 4))
	f.Fuzz(func(t *testing.T, content []byte) {
		f, err := open(content)
		if err != nil {
			return
		}
		for _, name := range f.Names() {
			if x, err := f.Tensor(name); err == nil && len(x.Bytes()) > len(content) {
				t.Errorf("%q has %d bytes in a file of %d", name, len(x.Bytes()), len(content))
			}
		}
	})
}
