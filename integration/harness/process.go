package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long a test waits for something that must happen. It is
// long because the machine may be slow, and because a tracker that was down for
// a while isn't asked at once; nothing takes so long otherwise.
const Patience = 2 * time.Minute

// endsWithin is how long a process may take to end: as long as systemd waits.
const endsWithin = 90 * time.Second

// Eventually waits until the condition holds, and fails the test if it never
// does. Between looks it waits for three times as long as one takes, so that
// looking keeps nobody busy.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); ; {
		began := time.Now()
		if condition() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", Patience, what)
		}
		<-time.After(max(5*time.Millisecond, 3*time.Since(began)))
	}
}

// Process is a program that a test has started. It ends with the test.
type Process struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}

	mu    sync.Mutex
	lines []string
}

// StartProcess starts a program and collects the lines it writes.
func StartProcess(t testing.TB, name string, env []string, path string, args ...string) *Process {
	t.Helper()
	ctx := context.Background()
	if t, ok := t.(*testing.T); ok {
		// When the tests run into their time limit no cleanup runs any more.
		if deadline, ok := t.Deadline(); ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, deadline.Add(-2*time.Second))
			t.Cleanup(cancel)
		}
	}
	p := &Process{name: name, cmd: exec.CommandContext(ctx, path, args...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Cancel = func() error { return p.Send(syscall.SIGTERM) }
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = in, in
	err = p.cmd.Start()
	in.Close()
	if err != nil {
		out.Close()
		t.Fatalf("starting %s: %v", name, err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer out.Close()
		for r := bufio.NewReader(out); ; {
			line, err := r.ReadString('\n')
			if line != "" {
				p.mu.Lock()
				p.lines = append(p.lines, line)
				p.mu.Unlock()
			}
			if err != nil {
				return
			}
		}
	}()
	go func() {
		_ = p.cmd.Wait()
		<-read
		close(p.ended)
	}()
	t.Cleanup(func() {
		if p.Running() {
			p.Signal(t, syscall.SIGTERM)
		}
		if t.Failed() {
			lines := p.output()
			t.Logf("the last of what %s wrote:\n%s", name, strings.Join(lines[max(0, len(lines)-40):], ""))
		}
	})
	return p
}

// output returns the lines written so far.
func (p *Process) output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

func (p *Process) Running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Send sends a signal. Windows has none but that which kills.
func (p *Process) Send(sig os.Signal) error {
	if runtime.GOOS == "windows" {
		sig = os.Kill
	}
	return p.cmd.Process.Signal(sig)
}

// Signal sends a signal that is to end the process, and waits until it has.
func (p *Process) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := p.Send(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("sending %v to %s: %v", sig, p.name, err)
	}
	select {
	case <-p.ended:
	case <-time.After(endsWithin):
		_ = p.cmd.Process.Kill()
		<-p.ended
		t.Errorf("%s took more than %s to end after %v", p.name, endsWithin, sig)
	}
}

// Listening waits until a process takes connections at an address.
func (p *Process) Listening(t testing.TB, network, addr string) {
	t.Helper()
	Eventually(t, p.name+" at "+addr, func() bool {
		if !p.Running() {
			t.Fatalf("%s ended at once", p.name)
		}
		conn, err := net.Dial(network, addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// ports are those that this process may give to its tests: a block of which it
// has the first, by listening there, so that other processes leave it alone.
var ports struct {
	sync.Mutex
	next, end int
	held      []net.Listener // one for each block
}

// FreePort returns a port that nothing listens on and that no other test gets.
// It is below those that the system gives to outgoing connections, so a server
// that goes away and comes back finds it free. To find one it listens on none,
// for the reason that [Listen] gives.
func FreePort(t testing.TB) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	for range 10_000 {
		if ports.next == ports.end {
			const first, blocks, size = 12_000, 80, 250
			start := first + size*rand.IntN(blocks)
			l, err := net.Listen("tcp", Loopback(start))
			if err != nil {
				continue
			}
			ports.held = append(ports.held, l)
			ports.next, ports.end = start, start+size-1
		}
		ports.next++
		conn, err := net.Dial("tcp", Loopback(ports.next))
		if errors.Is(err, syscall.ECONNREFUSED) {
			return ports.next
		} else if err == nil {
			conn.Close()
		}
	}
	t.Fatal("no free port")
	return 0
}

// Listen waits until a port is free, as it may not be at once after it was
// closed: a process that a test beside this one starts has this one's sockets
// too until it runs its own program.
func Listen(t testing.TB, addr string) (l net.Listener) {
	t.Helper()
	Eventually(t, addr+" to be free", func() bool {
		var err error
		if l, err = net.Listen("tcp", addr); err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
		return err == nil
	})
	return l
}

func Loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
