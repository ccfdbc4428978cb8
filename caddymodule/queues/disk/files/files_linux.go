package files

import (
	"errors"
	"os"
	"syscall"
)

// datasync makes what was written to a file durable, but not when.
func datasync(f *os.File) error {
	return os.NewSyscallError("fdatasync", untilDone(func() error { return syscall.Fdatasync(int(f.Fd())) }))
}

// reserve reserves space for a file, where the file system can.
func reserve(f *os.File, size int64) error {
	err := untilDone(func() error { return syscall.Fallocate(int(f.Fd()), 0, 0, size) })
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return nil // it will be written to
	}
	return os.NewSyscallError("fallocate", err)
}

func untilDone(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}

func diskSize(dir string) int64 {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0
	}
	return int64(s.Blocks) * s.Bsize
}
