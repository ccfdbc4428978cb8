package files

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// errorSharingViolation is what Windows says of a file that somebody else has
// open for himself alone.
const errorSharingViolation syscall.Errno = 32

func lock(name string) (io.Closer, error) {
	path, err := syscall.UTF16PtrFromString(name)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(path, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errorSharingViolation) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, hint(os.NewSyscallError("CreateFile", err))
	}
	return os.NewFile(uintptr(h), name), nil
}
