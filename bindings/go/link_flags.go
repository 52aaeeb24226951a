//go:build seerattn_flags

package seerattn

// The library is where CGO_LDFLAGS says (-L..., perhaps -Wl,-rpath,...), or where the linker looks by itself.

// #cgo LDFLAGS: -lseerattn
import "C"
