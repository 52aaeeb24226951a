//go:build !cgo

package seerattn

// Without cgo this name is what the compiler complains of.
var _ = thisPackageNeedsCgo_SetCGO_ENABLEDTo1AndInstallACCompiler
