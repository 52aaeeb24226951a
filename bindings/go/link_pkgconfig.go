//go:build !seerattn_flags

package seerattn

// The library comes from pkg-config. With -tags seerattn_flags it comes from CGO_LDFLAGS instead.

// #cgo pkg-config: seerattn
import "C"
