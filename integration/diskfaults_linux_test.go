package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// mounted makes a file system of its own. Only root can do so; if root can't,
// CI must know.
func mounted(t *testing.T, source, kind string, options string) (dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a file system")
	}
	dir = harness.ShortDir(t)
	if err := syscall.Mount(source, dir, kind, 0, options); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("mounting a file system: %v", err)
		}
		t.Skipf("mounting a file system: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// TestDiskIsFull fills a disk by other things. Hits are recorded again once
// there is room.
func TestDiskIsFull(t *testing.T) {
	t.Parallel()
	disk := mounted(t, "tmpfs", "tmpfs", "size=6m")
	filler := filepath.Join(disk, "filler")
	harness.WriteFile(t, filler, strings.Repeat("x", 4<<20))
	c, trk, _ := startShop(t, queueAt(disk), shop)
	trk.Down()
	v := &visits{t: t, c: c, fill: strings.Repeat("x", 4000)}
	v.untilDropped(50)
	dropped := v.n - len(v.taken)
	if n := c.Metric("caddy_tagged_urls_records_dropped_total"); n != float64(dropped) {
		t.Errorf("%v records are counted as dropped of %d", n, dropped)
	}
	c.Says(t, "hits are dropped", "no space left")
	c.FewLines(t, 4)
	v.diagnosed(t, "is full")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	v.untilTaken()
	trk.Up()
	v.arrive(trk)
}

// TestDiskIsFullOfQueue has the queue itself fill the disk. It heals as soon as
// the tracker takes records: to deliver needs no space.
func TestDiskIsFullOfQueue(t *testing.T) {
	t.Parallel()
	for round := range max(1, *crashRounds/4) {
		disk := mounted(t, "tmpfs", "tmpfs", fmt.Sprintf("size=%dk", 5000+round*777))
		c, trk, _ := startShop(t, queueAt(disk), shop)
		trk.Down()
		v := &visits{t: t, c: c, fill: strings.Repeat("x", 7000+round)}
		v.untilDropped(50)
		if len(v.taken) < 100 {
			t.Errorf("only %d hits have room", len(v.taken))
		}
		trk.Up()
		v.arrive(trk)
		v.untilTaken()
		v.arrive(trk)
		c.Stop()
	}
}

// TestQueueIsFull fills the queue up to max_size. There is room again as soon
// as the tracker takes records.
func TestQueueIsFull(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "tagged_urls {\n\t\tqueue disk {\n\t\t\tmax_size 4MiB\n\t\t}\n\t}", shop)
	trk.Down()
	v := &visits{t: t, c: c, fill: strings.Repeat("x", 8000)}
	v.untilDropped(20)
	dropped := v.n - len(v.taken)
	if n := c.Metric("caddy_tagged_urls_records_dropped_total", `reason="full"`); n != float64(dropped) {
		t.Errorf("%v records are counted as dropped for want of room, of %d", n, dropped)
	}
	if n := c.Metric("caddy_tagged_urls_queue_bytes"); n > 4<<20 {
		t.Errorf("the queue takes up %v bytes", n)
	}
	c.Says(t, "these hits are lost", "raise max_size")
	c.FewLines(t, 3)
	trk.Up()
	v.untilTaken()
	v.arrive(trk)
}

// TestDiskIsReadOnly: as after an error of the disk, until it is mounted anew.
func TestDiskIsReadOnly(t *testing.T) {
	t.Parallel()
	disk := mounted(t, "tmpfs", "tmpfs", "size=2g")
	c, trk, _ := startShop(t, queueAt(disk), shop)
	trk.Down()
	v := &visits{t: t, c: c}
	v.visit()
	c.Stop()
	remount := func(flags uintptr) {
		if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT|flags, "size=2g"); err != nil {
			t.Fatal(err)
		}
	}
	remount(syscall.MS_RDONLY)
	c.Start()
	v.refused(t, "read-only")
	v.diagnosed(t, "read-only")
	remount(0)
	v.untilTaken()
	trk.Up()
	v.arrive(trk)
}

// TestDiskHangs has a disk that takes nothing and says nothing. Visitors wait
// no longer than queue_timeout.
func TestDiskHangs(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can freeze a file system")
	}
	mkfs, losetup, freeze := harness.Need(t, "mkfs.ext4"), harness.Need(t, "losetup"), harness.Need(t, "fsfreeze")
	image := filepath.Join(harness.ShortDir(t), "image")
	harness.WriteFile(t, image, "")
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	run(mkfs, "-q", "-F", image)
	out, err := exec.Command(losetup, "--find", "--show", image).Output()
	if err != nil {
		t.Skipf("this machine has no loop devices: %v", err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { run(losetup, "--detach", loop) })
	disk := mounted(t, loop, "ext4", "")
	other := t.TempDir() // which outlasts Caddy
	thaw := func() { _ = exec.Command(freeze, "--unfreeze", disk).Run() }
	at := func(dir string) string {
		return strings.Replace(queueAt(dir), "queue disk", "queue_timeout 2s\n\t\tqueue disk", 1)
	}
	c, trk, _ := startShop(t, at(disk), shop)
	t.Cleanup(thaw) // before Caddy is stopped
	trk.Down()
	v := &visits{t: t, c: c}
	v.untilTaken()
	run(freeze, "--freeze", disk)
	var hung atomic.Bool // something waited for the disk
	defer time.AfterFunc(harness.Patience, func() { hung.Store(true); thaw() }).Stop()
	for range 3 {
		if v.visit() {
			t.Error("a hit was taken")
		}
	}
	if len(c.Trackers(t)) != 1 {
		t.Error("the status doesn't answer")
	}
	c.Reload(at(disk), shop)
	if hung.Load() {
		t.Fatal("a visitor or a reload has waited for the disk")
	}
	v.visit()
	c.Says(t, "these hits are lost", `"timeout"`)
	c.FewLines(t, 3)
	// Another path is the way out. What is in the old file isn't given up.
	c.Reload(at(other), shop)
	if hung.Load() {
		t.Fatal("a reload with another path has waited for the disk")
	}
	v.untilTaken()
	thaw()
	trk.Up()
	harness.Eventually(t, "what is in the old file to arrive", func() bool { return times(trk.Records(t))[v.taken[0]] > 0 })
	v.arrive(trk)
	c.FewLines(t, 5)
}

// TestFileIsSpoiltWhileOpen has another program spoil the queue's file under
// the running Caddy. That costs what it hits; recording goes on.
func TestFileIsSpoiltWhileOpen(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(file string, data []byte) error{
		"emptied": func(file string, _ []byte) error { return os.Truncate(file, 0) },
		"cut":     func(file string, _ []byte) error { return os.Truncate(file, 3*4096) },
		"overwritten": func(file string, data []byte) error {
			return overwrite(file, bytes.Repeat([]byte("garbage "), len(data)/8))
		},
		"zeroed": func(file string, data []byte) error { return overwrite(file, make([]byte, len(data))) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c, trk, _ := startShop(t, queueAt(dir), shop)
			trk.Down()
			v := &visits{t: t, c: c, fill: strings.Repeat("x", 1000)}
			for range 50 {
				v.visit()
			}
			file := segments(t, dir)[0]
			data, err := os.ReadFile(file)
			if err == nil {
				err = spoil(file, data)
			}
			if err != nil {
				t.Fatal(err)
			}
			v.taken = nil
			for range 5 {
				v.visit()
			}
			c.API("POST", "/tagged_urls/retry")
			trk.Up()
			v.arrive(trk)
			c.Says(t, file, "damaged")
			c.FewLines(t, 6)
		})
	}
}

func overwrite(file string, data []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(data)
	return err
}

// TestFileOfALaterVersion: after a step back to an older version of this
// module the file is neither used nor touched.
func TestFileOfALaterVersion(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "queue")
	c, trk, _ := startShop(t, queueAt(dir), shop)
	trk.Down()
	v := &visits{t: t, c: c}
	v.visit()
	c.Stop()
	file := segments(t, dir)[0]
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	later := bytes.Clone(before)
	later[19] = 99 // behind the mark
	if err := os.WriteFile(file, later, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Start()
	v.refused(t, file, "later version")
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(later, after) {
		t.Errorf("the file was changed: %v", err)
	}
	// The operator goes back to the later version, or takes the queue away.
	if err := os.Rename(dir, dir+".kept"); err != nil {
		t.Fatal(err)
	}
	v.untilTaken()
	c.Stop()
	if err := os.WriteFile(filepath.Join(dir+".kept", filepath.Base(file)), before, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(dir, dir+".away"), os.Rename(dir+".kept", dir)); err != nil {
		t.Fatal(err)
	}
	c.Start()
	trk.Up()
	v.taken = v.taken[:1]
	v.arrive(trk)
}

// TestFileIsSomebodyElses: as when Caddy was once run by hand, by root.
func TestFileIsSomebodyElses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c, trk, _ := startShop(t, queueAt(dir), shop)
	trk.Down()
	v := &visits{t: t, c: c}
	v.visit()
	c.Stop()
	file := segments(t, dir)[0]
	give := func(uid int, mode os.FileMode) {
		if os.Getuid() == 0 {
			if err := os.Chown(file, uid, uid); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	give(12345, 0o000)
	c.Start(unprivileged(t)...)
	v.refused(t, filepath.Base(file), "permission denied", "uid")
	v.diagnosed(t, filepath.Base(file)+": permission denied", unprivileged(t)...)
	give(0, 0o600)
	v.untilTaken()
	trk.Up()
	v.arrive(trk)
}

// unprivileged is what starts Caddy so that files' owners and modes count even
// if the test is run by root.
func unprivileged(t *testing.T) (wrapper []string) {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	return []string{harness.Need(t, "setpriv"), "--bounding-set=-all", "--inh-caps=-all"}
}
