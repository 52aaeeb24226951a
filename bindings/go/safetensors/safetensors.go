// Package safetensors reads tensors from .safetensors files. Nothing in a file is trusted: a malformed one is an error
// with status [seerattn.ErrFormat], and memory is only taken for bytes that are there.
package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"os"
	"sort"

	"example.com/seerattn"
)

const maxHeader = 100_000_000 // the format's own limit, in bytes

// File is an open .safetensors file. It may be used from several goroutines at once.
type File struct {
	r       io.ReaderAt
	closer  io.Closer
	start   int64 // of the data
	entries map[string]entry
}

type entry struct {
	DType   string   `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"` // from start
}

var dtypes = map[string]seerattn.DType{
	"F32": seerattn.F32, "F16": seerattn.F16, "BF16": seerattn.BF16, "I32": seerattn.I32, "I64": seerattn.I64,
	"U8": seerattn.U8, "BOOL": seerattn.U8,
}

// Open opens a file and reads its header. The caller closes it.
func Open(path string) (*File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil {
		var f *File
		if f, err = New(file, info.Size()); err == nil {
			f.closer = file
			return f, nil
		}
		err = fmt.Errorf("%s: %w", path, err)
	}
	file.Close()
	return nil, err
}

// New reads the header of a file of size bytes. The reader stays in use.
func New(r io.ReaderAt, size int64) (*File, error) {
	var length [8]byte
	if size < 8 {
		return nil, malformed("%d bytes are too short for a header", size)
	}
	if _, err := r.ReadAt(length[:], 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > maxHeader || int64(n) > size-8 {
		return nil, malformed("the header has %d bytes; expected at most %d", n, min(maxHeader, size-8))
	}
	header := make([]byte, n)
	if _, err := r.ReadAt(header, 8); err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(header, &all); err != nil {
		return nil, malformed("the header is no JSON object: %v", err)
	}
	delete(all, "__metadata__")
	f := &File{r: r, start: 8 + int64(n), entries: make(map[string]entry, len(all))}
	for name, text := range all {
		var e entry
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&e); err != nil {
			return nil, malformed("tensor %q: %v", name, err)
		}
		if begin, end := e.Offsets[0], e.Offsets[1]; begin < 0 || begin > end || end > size-f.start {
			return nil, malformed("tensor %q lies from byte %d to %d of %d", name, begin, end, size-f.start)
		}
		f.entries[name] = e
	}
	return f, nil
}

// Close closes a file that Open opened.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// Names returns the names of the tensors, sorted.
func (f *File) Names() []string {
	names := make([]string, 0, len(f.entries))
	for name := range f.entries {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Tensor reads a tensor into memory of its own.
func (f *File) Tensor(name string) (seerattn.Tensor, error) {
	e, ok := f.entries[name]
	if !ok {
		return seerattn.Tensor{}, malformed("there is no tensor %q", name)
	}
	dtype, ok := dtypes[e.DType]
	if !ok {
		return seerattn.Tensor{}, malformed("tensor %q has dtype %q; expected F32, F16, BF16, I32, I64, U8 or BOOL", name, e.DType)
	}
	size := uint64(dtype.Size())
	for _, extent := range e.Shape {
		high, low := bits.Mul64(size, uint64(extent))
		if extent < 0 || high != 0 {
			return seerattn.Tensor{}, malformed("tensor %q has shape %v", name, e.Shape)
		}
		size = low
	}
	if size != uint64(e.Offsets[1]-e.Offsets[0]) {
		return seerattn.Tensor{}, malformed("tensor %q of %s %v has %d bytes", name, e.DType, e.Shape, e.Offsets[1]-e.Offsets[0])
	}
	shape := e.Shape
	if len(shape) == 0 { // a number
		shape = []int{1}
	}
	t := seerattn.NewTensor(dtype, shape...)
	if data := t.Bytes(); data == nil {
		return seerattn.Tensor{}, malformed("tensor %q has %d dimensions; expected at most 4", name, len(shape))
	} else if _, err := f.r.ReadAt(data, f.start+e.Offsets[0]); err != nil && len(data) > 0 {
		return seerattn.Tensor{}, fmt.Errorf("tensor %q: %w", name, err)
	}
	return t, nil
}

func malformed(format string, values ...any) error {
	return &seerattn.Error{Status: seerattn.ErrFormat, Detail: fmt.Sprintf(format, values...)}
}
