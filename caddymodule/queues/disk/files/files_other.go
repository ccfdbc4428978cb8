//go:build !linux

package files

import "os"

// datasync makes what was written to a file durable.
func datasync(f *os.File) error { return f.Sync() }

// reserve does nothing: writing to the file reserves the space.
func reserve(*os.File, int64) error { return nil }

// diskSize isn't known here.
func diskSize(string) int64 { return 0 }
