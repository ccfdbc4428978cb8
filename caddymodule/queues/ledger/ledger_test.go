package ledger

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// identity makes the n-th identity.
func identity(n int) (anonymous [16]byte) {
	binary.BigEndian.PutUint64(anonymous[:], uint64(n)+1)
	return anonymous
}

// begun is when the ledgers of most tests are made. Identities are younger.
var begun = time.Unix(1_800_000_000, 0)

// clock is a time that tests set.
type clock struct{ atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.set(begun)
	return c
}

func (c *clock) set(t time.Time) { c.Store(t.UnixNano()) }
func (c *clock) now() time.Time  { return time.Unix(0, c.Load()) }

func openAt(t *testing.T, dir string, limit int, now func() time.Time) *Ledger {
	t.Helper()
	return openWith(t, dir, table{limit: limit, sync: unsynced, now: now})
}

// unsynced is for those who only look at what a crash of the process leaves.
func unsynced(*os.File) error { return nil }

func openWith(t *testing.T, dir string, table table) *Ledger {
	t.Helper()
	l := open(dir, zap.NewNop(), table)
	t.Cleanup(func() { l.Close() })
	return l
}

// claim claims an identity that was made so many seconds after begun.
func claim(t *testing.T, l *Ledger, n, made int) bool {
	t.Helper()
	first, err := l.Claim(t.Context(), l.Name(), identity(n), begun.Add(time.Duration(made)*time.Second))
	if err != nil {
		t.Fatalf("claiming %d: %v", n, err)
	}
	return first
}

// content is what a crash right now would leave.
func content(t *testing.T, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "aliases"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// left makes a directory in which there is only what a crash left.
func left(t *testing.T, content []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "aliases"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOneIsFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var firsts, syncs atomic.Int64
	l := openWith(t, dir, table{limit: 1000, now: time.Now, sync: func(f *os.File) error {
		syncs.Add(1)
		return f.Sync()
	}})
	made := time.Now().Add(time.Second)
	var wg sync.WaitGroup
	for i := range 400 {
		wg.Go(func() {
			first, err := l.Claim(t.Context(), l.Name(), identity(i%40), made)
			if err != nil {
				t.Error(err)
			}
			if first {
				firsts.Add(1)
			}
		})
	}
	wg.Wait()
	if firsts.Load() != 40 {
		t.Errorf("%d were the first to claim one of 40 identities", firsts.Load())
	}
	if syncs.Load() > 40+2 { // and of the file and its directory when they are made
		t.Errorf("%d syncs for 40 claims", syncs.Load())
	}
	info, err := os.Stat(filepath.Join(dir, "aliases"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// A claim is on disk when its caller knows of it, and synced.
func TestClaimIsDurable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var synced int64
	l := openWith(t, dir, table{limit: 1000, now: newClock().now, sync: func(f *os.File) error {
		info, err := f.Stat()
		synced = info.Size()
		return errors.Join(err, f.Sync())
	}})
	for n := range 20 {
		if !claim(t, l, n, 1) {
			t.Fatalf("%d was claimed already", n)
		}
		now := content(t, dir)
		if synced != int64(len(now)) {
			t.Fatalf("%d of %d bytes are synced", synced, len(now))
		}
		after := openAt(t, left(t, now), 1000, newClock().now)
		for old := range n + 1 {
			if claim(t, after, old, 1) {
				t.Fatalf("%d is forgotten after a crash", old)
			}
		}
	}
}

// A crash leaves the end of the file in any state.
func TestTornEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openAt(t, dir, 1000, newClock().now)
	for n := range 3 {
		claim(t, l, n, 1)
	}
	whole := content(t, dir)
	later := newClock()
	later.set(begun.Add(time.Minute))
	for cut := headerSize; cut < len(whole); cut++ {
		for _, rest := range [][]byte{nil, make([]byte, len(whole)-cut), make([]byte, 5*entrySize)} {
			dir := left(t, append(whole[:cut:cut], rest...))
			after := openAt(t, dir, 1000, later.now)
			if !claim(t, after, 100, 1) {
				t.Fatalf("cut at %d: a new one is claimed already", cut)
			}
			for n := range 3 {
				if known := !claim(t, after, n, 1); known != (cut >= headerSize+(n+1)*entrySize) {
					t.Errorf("cut at %d: %d is known: %v", cut, n, known)
				}
			}
			again := openAt(t, left(t, content(t, dir)), 1000, later.now)
			for _, n := range []int{0, 1, 2, 100} {
				if claim(t, again, n, 1) {
					t.Errorf("cut at %d: %d is forgotten then", cut, n)
				}
			}
		}
	}
}

// Whatever is damaged but the very end, which could be torn, nobody is first
// for a second time.
func TestDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openAt(t, dir, 1000, newClock().now)
	for n := range 4 {
		claim(t, l, n, 1)
	}
	whole, name := content(t, dir), l.Name()
	later := newClock()
	later.set(begun.Add(time.Minute))
	check := func(what string, damaged []byte) {
		t.Helper()
		after := openAt(t, left(t, damaged), 1000, later.now)
		for n := range 4 {
			if first, err := after.Claim(t.Context(), name, identity(n), begun.Add(time.Second)); first || err != nil && !errors.Is(err, delivery.ErrAliasDoubt) {
				t.Errorf("%s: %d: %v, %v", what, n, first, err)
			}
		}
		if !claim(t, after, 100, 61) {
			t.Errorf("%s: one that is younger is claimed already", what)
		}
	}
	for at := range len(whole) - entrySize {
		if at >= 28 && at < headerSize {
			continue // it isn't used
		}
		damaged := append([]byte(nil), whole...)
		damaged[at] ^= 0x10
		check(fmt.Sprintf("byte %d", at), damaged)
	}
	for cut := range headerSize {
		check(fmt.Sprintf("cut at %d", cut), whole[:cut])
	}
	zeroed := append([]byte(nil), whole...)
	clear(zeroed[headerSize : headerSize+2*entrySize])
	check("two entries zeroed", zeroed)
}

// What a later version has written stays as it is, and no alias is sent
// meanwhile.
func TestLaterVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openAt(t, dir, 1000, newClock().now)
	claim(t, l, 1, 1)
	whole, name := content(t, dir), l.Name()
	later := append([]byte(nil), whole...)
	later[len(magic)-1]++
	dir = left(t, later)
	after := openAt(t, dir, 1000, newClock().now)
	if first, err := after.Claim(t.Context(), name, identity(2), begun.Add(time.Second)); first || !errors.Is(err, errLater) {
		t.Errorf("%v, %v", first, err)
	}
	if now := content(t, dir); !bytes.Equal(now, later) {
		t.Error("it was changed")
	}
	back := openAt(t, left(t, whole), 1000, newClock().now)
	if claim(t, back, 1, 1) {
		t.Error("the version that has written it forgot what it says")
	}
}

// Without its file, and with another one's, a ledger doesn't know what it has
// sent before.
func TestLost(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openAt(t, dir, 1000, newClock().now)
	name := l.Name()
	claim(t, l, 1, 1)
	l.Close()
	if err := os.Remove(filepath.Join(dir, "aliases")); err != nil {
		t.Fatal(err)
	}
	l = openAt(t, dir, 1000, newClock().now)
	if l.Name() == name || l.Name() == 0 {
		t.Errorf("two ledgers have the name %d", name)
	}
	for n, name := range []uint64{name, name, 0, name + 1} {
		if first, err := l.Claim(t.Context(), name, identity(n), begun.Add(time.Second)); first || !errors.Is(err, delivery.ErrAliasDoubt) {
			t.Errorf("%d: %v, %v", n, first, err)
		}
	}
	if !claim(t, l, 2, 1) {
		t.Error("one of its own is claimed already")
	}
	l.Close()
	again := openAt(t, dir, 1000, newClock().now)
	if again.Name() != l.Name() || claim(t, again, 2, 1) {
		t.Error("it is another ledger after a restart")
	}
}

// Who comes from the future was made while the clock was wrong.
func TestFuture(t *testing.T) {
	t.Parallel()
	l := openAt(t, t.TempDir(), 1000, newClock().now)
	for made, doubt := range map[int]bool{-100: false, 0: false, 3500: false, 3700: true} {
		first, err := l.Claim(t.Context(), l.Name(), identity(made+100), begun.Add(time.Duration(made)*time.Second))
		if first == doubt || errors.Is(err, delivery.ErrAliasDoubt) != doubt {
			t.Errorf("%ds: %v, %v", made, first, err)
		}
	}
}

func TestRelease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openAt(t, dir, 1000, newClock().now)
	claim(t, l, 1, 1)
	claim(t, l, 2, 1)
	l.Release(identity(1))
	l.Release(identity(3)) // which nobody has claimed
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openAt(t, dir, 1000, newClock().now)
	if !claim(t, l, 1, 1) || claim(t, l, 1, 1) || claim(t, l, 2, 1) || !claim(t, l, 3, 1) {
		t.Error("what was released isn't free, or what wasn't is")
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	l := openAt(t, t.TempDir(), 1000, newClock().now)
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if first, err := l.Claim(t.Context(), l.Name(), identity(1), begun.Add(time.Second)); first || !errors.Is(err, delivery.ErrClosed) {
		t.Errorf("%v, %v", first, err)
	}
	l.Release(identity(1))
}

// Who waits for a disk that hangs can give up.
func TestSlow(t *testing.T) {
	t.Parallel()
	hang, hangs := make(chan struct{}), make(chan struct{})
	dir, syncs := t.TempDir(), 0
	l := openWith(t, dir, table{limit: 1000, now: newClock().now, sync: func(*os.File) error {
		if syncs++; syncs == 3 { // after those of making it
			close(hangs)
			<-hang
		}
		return nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-hangs
		cancel()
	}()
	if first, err := l.Claim(ctx, l.Name(), identity(1), begun.Add(time.Second)); first || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", first, err)
	}
	close(hang)
	l.Close()
	if claim(t, openAt(t, dir, 1000, newClock().now), 1, 1) {
		t.Error("nobody knows whether an alias was sent, and another one gets one")
	}
}

// Storage that can't be used makes errors, until it can.
func TestTrouble(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir := filepath.Join(parent, "queue")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // where there should be a directory
		t.Fatal(err)
	}
	now := newClock()
	l := openAt(t, dir, 1000, now.now)
	if first, err := l.Claim(t.Context(), l.Name(), identity(1), begun.Add(time.Second)); first || err == nil {
		t.Errorf("%v, %v", first, err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	now.set(begun.Add(reopenPause))
	if first, err := l.Claim(t.Context(), 0, identity(1), begun); first || !errors.Is(err, delivery.ErrAliasDoubt) {
		t.Errorf("it isn't tried again: %v, %v", first, err)
	}
	if !claim(t, l, 2, 2) {
		t.Error("it can't be used")
	}
}

// TestFaults lets writes, syncs and the process fail at random. Nobody is the
// first twice, and somebody is often.
func TestFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 12))
		dir, now := t.TempDir(), newClock()
		var broken atomic.Bool
		reopen := func() *Ledger {
			own := rand.New(rand.NewPCG(seed, r.Uint64()))
			return openWith(t, dir, table{limit: 16, now: now.now, sync: func(*os.File) error {
				if broken.Load() && own.IntN(3) == 0 {
					return errors.New("no")
				}
				return nil
			}})
		}
		l := reopen()
		firsts, total := map[int]bool{}, 0
		mades, names := map[int]int{}, map[int]uint64{}
		for step := range 400 {
			now.set(begun.Add(time.Duration(step) * time.Second))
			switch r.IntN(20) {
			case 0: // a crash, and what a rewrite may have left of its file
				file := content(t, dir)
				dir = left(t, file)
				if err := os.WriteFile(filepath.Join(dir, "aliases.new"), file[:r.IntN(len(file)+1)], 0o600); err != nil {
					t.Fatal(err)
				}
				l.Close()
				broken.Store(false)
				l = reopen()
				broken.Store(r.IntN(2) == 0)
			case 1:
				if len(firsts) > 0 {
					for n := range firsts {
						l.Release(identity(n))
						delete(firsts, n)
						break
					}
				}
			default:
				n := r.IntN(60)
				made, ok := mades[n]
				if !ok {
					made = step + 1
					mades[n], names[n] = made, l.Name()
				}
				first, err := l.Claim(t.Context(), names[n], identity(n), begun.Add(time.Duration(made)*time.Second))
				if first && firsts[n] || first && err != nil {
					t.Fatalf("seed %d, step %d: %d is claimed twice (%v)", seed, step, n, err)
				}
				if first {
					firsts[n], total = true, total+1
				}
				if fileSize(t, dir) > headerSize+17*entrySize {
					t.Fatalf("the file has %d bytes", fileSize(t, dir))
				}
			}
		}
		if total < 20 {
			t.Errorf("seed %d: only %d claims were successful", seed, total)
		}
	}
}

func fileSize(t *testing.T, dir string) int64 {
	info, err := os.Stat(filepath.Join(dir, "aliases"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// The oldest go, and stay in doubt.
func TestFull(t *testing.T) {
	t.Parallel()
	now := newClock()
	l := openAt(t, t.TempDir(), 8, now.now)
	for n := range 9 {
		claim(t, l, n, n+1)
	}
	for n := range 9 {
		first, err := l.Claim(t.Context(), l.Name(), identity(n), begun.Add(time.Duration(n+1)*time.Second))
		if first || errors.Is(err, delivery.ErrAliasDoubt) != (n < 4) {
			t.Errorf("%d: %v, %v", n, first, err)
		}
	}
}

// TestKilled claims in a process that is killed.
func TestKilled(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("LEDGER_TEST_DIR"); dir != "" {
		l := Open(dir, zap.NewNop())
		made := time.Now().Add(time.Minute)
		for n := 0; ; n++ {
			if first, err := l.Claim(context.Background(), l.Name(), identity(n), made); !first || err != nil {
				panic(fmt.Sprint(first, err))
			}
			fmt.Println("claimed", l.Name(), made.Unix(), n)
		}
	}
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	child.Env = append(os.Environ(), "LEDGER_TEST_DIR="+dir)
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var last int
	var name uint64
	var made int64
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "claimed %d %d %d", &name, &made, &last); err != nil {
			t.Fatal(lines.Text())
		}
		if last == 50 {
			_ = child.Process.Kill()
		}
	}
	_ = child.Wait()
	l := Open(dir, zap.NewNop())
	defer l.Close()
	for n := range last + 1 {
		if first, err := l.Claim(t.Context(), name, identity(n), time.Unix(made, 0)); first || err != nil {
			t.Errorf("%d, whose claim was known, of %d: %v, %v", n, last+1, first, err)
		}
	}
}

func BenchmarkClaim(b *testing.B) {
	l := Open(b.TempDir(), zap.NewNop())
	defer l.Close()
	made := time.Now().Add(time.Minute)
	var n atomic.Int64
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if first, err := l.Claim(b.Context(), l.Name(), identity(int(n.Add(1))), made); !first || err != nil {
				b.Fatal(first, err)
			}
		}
	})
}
