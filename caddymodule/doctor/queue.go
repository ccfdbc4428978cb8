package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/dustin/go-humanize"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// leastFree is how much of a disk has to be free for the queue to begin a
// segment of its smallest size, and a spare one.
const leastFree = 4 << 20

// Disk is the disk that holds a directory.
type Disk struct {
	// Free is how many bytes the process may use of it.
	Free int64
	// Network is the kind of a file system that isn't this machine's, or may
	// not be; else it is empty.
	Network string
	// Passing says what ends what is stored there, such as a restart; empty if
	// nothing does.
	Passing string
	// Unknown is set where the system doesn't say any of that.
	Unknown bool
}

// queue looks at the queue's place on this machine's disk.
func (e *examination) queue() {
	opener := e.opener()
	e.runningQueue(opener)
	local, ok := opener.(delivery.Local)
	if !ok {
		e.fine(checkQueue, "the queue isn't on this machine's disk: nothing to look at")
		return
	}
	path, most := local.Directory()
	if path == "" {
		e.fine(checkQueue, "the queue has nothing on this machine's disk: nothing to look at")
		return
	}
	where := e.source.global("tagged_urls", "path", "queue")
	used, err := occupied(path)
	if err != nil {
		e.found(Error, checkQueue, where, fmt.Sprintf("the queue in %s can't be used by %s: %v", path, user(), err), remedy(err))
		return
	}
	dir := existing(path)
	disk, err := e.Disk(dir)
	switch {
	case err != nil:
		e.found(Warning, checkQueue, where, fmt.Sprintf("the disk of %s doesn't say what is free: %v", dir, err), "")
	case disk.Unknown:
		e.found(OK, checkQueue, where, fmt.Sprintf("the queue in %s can be written by %s; on this system it isn't checked whether its disk is full, or a network's", path, user()), "")
		return
	case disk.Free < leastFree && used < most:
		e.found(Error, checkQueue, where, fmt.Sprintf("the disk of the queue in %s is full: %s are free", path, humanize.IBytes(uint64(disk.Free))),
			"make room, or give the queue a path on another disk")
	case disk.Free < most-used:
		e.found(Warning, checkQueue, where, fmt.Sprintf("the queue in %s may grow by %s, but its disk has %s free: it would be full before the queue is",
			path, humanize.IBytes(uint64(most-used)), humanize.IBytes(uint64(max(0, disk.Free)))), "make room, or lower max_size")
	}
	if disk.Network != "" {
		e.found(Warning, checkQueue, where, fmt.Sprintf("the queue in %s is on a file system of a network or of a program (%s): whether its locks and syncs keep what they promise depends on that", path, disk.Network),
			"give the queue a path on this machine's own disk; of several nodes each needs a queue of its own, or all of them `queue nats`")
	}
	if disk.Passing != "" {
		e.found(Warning, checkQueue, where, fmt.Sprintf("the queue in %s doesn't last: %s", path, disk.Passing), "give the queue a path on a disk, or on a volume")
	}
	e.fine(checkQueue, fmt.Sprintf("the queue in %s can be written by %s", path, user()))
}

// runningQueue looks whether the queue of a Caddy that runs works, and is this
// one: for another user, or in another environment, it may be elsewhere.
func (e *examination) runningQueue(opener any) {
	configured, ok := opener.(delivery.Opener)
	if !ok || e.Running == nil || len(e.Running.Queues) == 0 {
		return
	}
	here, same, where := configured.Key(), false, e.source.global("tagged_urls", "path", "queue")
	for _, q := range e.Running.Queues {
		same = same || q.Queue == here
		if q.Error != "" {
			e.found(Error, checkQueue, where, "the Caddy that runs records nothing: "+q.Error, "do what it says; `caddy tagged-urls status` tells when it works")
		}
	}
	if !same {
		e.found(Warning, checkQueue, where, fmt.Sprintf("the Caddy that runs has its queue in %s, and not in %s", e.Running.Queues[0].Queue, here),
			"load this configuration, if it isn't yet; else Caddy's service has another environment: "+asService)
	}
}

// remedy is what to do about an error of the file system.
func remedy(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "run this as the user that Caddy runs as, and let that user write the queue's directory and its files (`chown -R`), or give the queue another path"
	case errors.Is(err, syscall.ENOSPC):
		return "make room, or give the queue a path on another disk"
	case errors.Is(err, syscall.EROFS):
		return "have the file system mounted so that it can be written (for a service: ReadWritePaths or StateDirectory; for a container: a volume), or give the queue another path"
	}
	return "give the queue a path where a directory can be made"
}

// opener returns the queue's module, or nil if it can't be loaded: that was said
// when the app was.
func (e *examination) opener() any {
	var options struct {
		Queue json.RawMessage `json:"queue"`
	}
	_ = json.Unmarshal(e.config.Apps.TaggedURLs, &options)
	if options.Queue == nil {
		options.Queue = json.RawMessage(`{"queue":"disk"}`)
	}
	holder := struct {
		Raw json.RawMessage `caddy:"namespace=tagged_urls.queues inline_key=queue"`
	}{options.Queue}
	queue, err := e.ctx.LoadModule(&holder, "Raw")
	if err != nil {
		return nil
	}
	return queue
}

// occupied returns how many bytes a queue has, or why it couldn't be used: its
// directory can't be made or written, or a file of it.
func occupied(path string) (size int64, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, writable(existing(path))
	case err != nil:
		return 0, err
	case !info.IsDir(): // an earlier version's queue, which is replaced
		return info.Size(), errors.Join(writableFile(path), writable(filepath.Dir(path)))
	}
	if err := writable(path); err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue // gone meanwhile
		}
		if err == nil {
			err = writableFile(filepath.Join(path, entry.Name()))
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return 0, err
		}
		size += info.Size()
	}
	return size, nil
}

// existing returns the nearest directory that is there already.
func existing(path string) string {
	for {
		info, err := os.Stat(path)
		if up := filepath.Dir(path); err == nil && info.IsDir() || up == path {
			return path
		} else {
			path = up
		}
	}
}

// writable says why nothing can be made in a directory. Only to make something
// tells for certain; it is gone again at once, and a queue looks for other names.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".tagged-urls-doctor-")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// writableFile says why a file can't be written. It isn't changed.
func writableFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// user is who looks.
func user() string {
	if uid := os.Getuid(); uid >= 0 {
		return fmt.Sprintf("this user (uid %d)", uid)
	}
	return "this user"
}
