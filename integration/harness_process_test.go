package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for something that must happen. It is
// long because the machine may be slow, not because anything takes so long.
const patience = 30 * time.Second

// eventually waits until the condition holds, and fails the test if it
// doesn't come to.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
		<-ticker.C
	}
}

// process is a program that a test has started. It ends with the test.
type process struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}

	mu    sync.Mutex
	lines []string
}

// startProcess starts a program and collects the lines it writes.
func startProcess(t *testing.T, name string, env []string, path string, args ...string) *process {
	t.Helper()
	ctx := context.Background()
	if deadline, ok := t.Deadline(); ok {
		// When the tests run into their time limit no cleanup runs any more.
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-2*time.Second))
		t.Cleanup(cancel)
	}
	p := &process{name: name, cmd: exec.CommandContext(ctx, path, args...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
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
		if p.running() {
			p.signal(t, syscall.SIGTERM)
		}
		if t.Failed() {
			lines := p.output()
			t.Logf("the last of what %s wrote:\n%s", name, strings.Join(lines[max(0, len(lines)-40):], ""))
		}
	})
	return p
}

// output returns the lines written so far.
func (p *process) output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// signal sends a signal that is to end the process, and waits until it has.
func (p *process) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("sending %v to %s: %v", sig, p.name, err)
	}
	select {
	case <-p.ended:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.ended
		t.Errorf("%s took more than %s to end after %v", p.name, patience, sig)
	}
}

// listening waits until a process takes connections at an address.
func (p *process) listening(t *testing.T, network, addr string) {
	t.Helper()
	eventually(t, p.name+" at "+addr, func() bool {
		if !p.running() {
			t.Fatalf("%s ended at once", p.name)
		}
		conn, err := net.Dial(network, addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

var ports struct {
	sync.Mutex
	next int
}

// freePort returns a port that nothing listens on. It is below those that the
// system gives to outgoing connections, so a server that goes away and comes
// back finds it free. To find one it listens on none, for the reason that
// listen gives.
func freePort(t *testing.T) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.next == 0 {
		ports.next = 15000 + rand.IntN(10000)
	}
	for range 1000 {
		ports.next++
		conn, err := net.Dial("tcp", loopback(ports.next))
		if errors.Is(err, syscall.ECONNREFUSED) {
			return ports.next
		} else if err == nil {
			conn.Close()
		}
	}
	t.Fatal("no free port")
	return 0
}

// listen waits until a port is free, as it may not be at once after it was
// closed: a process that a test beside this one starts has this one's sockets
// too until it runs its own program.
func listen(t *testing.T, addr string) (l net.Listener) {
	t.Helper()
	eventually(t, addr+" to be free", func() bool {
		var err error
		if l, err = net.Listen("tcp", addr); err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
		return err == nil
	})
	return l
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
