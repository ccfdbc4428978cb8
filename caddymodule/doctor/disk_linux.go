package doctor

import (
	"fmt"
	"syscall"
)

// The numbers of file systems, from Linux's include/uapi/linux/magic.h and
// statfs(2).
var (
	networks = map[uint32]string{
		0x6969: "NFS", 0x517b: "SMB", 0xff534d42: "CIFS", 0xfe534d42: "SMB", 0x65735546: "FUSE",
		0x01021997: "9p", 0x00c36400: "Ceph", 0x5346414f: "AFS", 0x6b414653: "AFS", 0x73757245: "Coda", 0x7461636f: "OCFS2", 0x01161970: "GFS2",
	}
	passing = map[uint32]string{
		0x01021994: "it is in memory (tmpfs), and gone after a restart of the machine",
		0x858458f6: "it is in memory (ramfs), and gone after a restart of the machine",
		0x794c7630: "it is in a container's own layer (overlay), and gone with the container",
	}
)

func diskOf(dir string) (Disk, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return Disk{}, fmt.Errorf("statfs: %w", err)
	}
	kind := uint32(s.Type)
	return Disk{Free: int64(s.Bavail) * int64(s.Bsize), Network: networks[kind], Passing: passing[kind]}, nil
}
