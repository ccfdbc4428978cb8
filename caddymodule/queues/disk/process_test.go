package disk

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk/files"
)

// all has the tests try every stop and many seeds, instead of some that another
// run may not try.
var all = flag.Bool("disk.all", false, "try all stops and seeds")

// sample returns some of the numbers from 0 to n-1, a stride apart, beginning
// anywhere.
func sample(t *testing.T, n, some int) (numbers []int) {
	t.Helper()
	if *all {
		some = n
	}
	stride := max(1, n/some)
	offset := rand.IntN(stride)
	t.Logf("every %d. of %d, from %d on", stride, n, offset)
	for i := offset; i < n; i += stride {
		numbers = append(numbers, i)
	}
	return numbers
}

// TestMain makes the test binary play another process, when it is told to.
func TestMain(m *testing.M) {
	path := os.Getenv("TEST_QUEUE_PATH")
	switch os.Getenv("TEST_QUEUE_ROLE") {
	case "":
		os.Exit(m.Run())
	case "churn":
		churn(path)
	case "hold":
		hold(path)
	}
}

// process starts another process. It's killed when the test ends, if not before.
func process(t *testing.T, role, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_QUEUE_ROLE="+role, "TEST_QUEUE_PATH="+path)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // the process ends when this one does
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, bufio.NewScanner(out)
}

func childOpen(path string) *openQueue {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(1) // the parent is gone
	}()
	q, err := open(path, "", 64<<20, files.OS{}, zap.NewNop())
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	return q
}

// hold opens the queue and does nothing with it.
func hold(path string) {
	childOpen(path)
	fmt.Println("open")
	select {}
}

// churn puts and takes records without end, and prints what it has done. The
// records come in waves, so that segments come and go.
func churn(path string) {
	q := childOpen(path)
	say := func(what string, n int, err error) {
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(what, n)
	}
	n := time.Now().UnixNano()
	for {
		var producers sync.WaitGroup
		for range 8 {
			n += 100
			first := int(n)
			producers.Go(func() {
				for i := range 75 {
					r := bulky(first+i, rand.IntN(20_000))
					err := q.Put(context.Background(), delivery.Entry{Destination: "d", Record: r})
					say("put", number(r), err)
				}
			})
		}
		if rand.IntN(2) == 0 {
			producers.Wait() // else records come and go at the same time
		}
		for q.waiting("d") > 50 {
			items, err := q.Take(context.Background(), "d", 100)
			if err != nil {
				say("", 0, err)
			}
			for _, i := range items {
				s := delivery.Settlement{Item: i, Outcome: delivery.Retry}
				if rand.IntN(4) > 0 {
					s.Outcome = delivery.Done
				}
				if s.Outcome == delivery.Done {
					say("taking", number(i.Record), nil) // it may be killed before it says more
				}
				if err := q.Settle(s); err != nil {
					say("", 0, err)
				}
				if s.Outcome == delivery.Done {
					say("took", number(i.Record), nil)
				}
			}
		}
		producers.Wait()
	}
}

// TestKill kills a process that puts and takes records as fast as it can: what
// Put returned for is there, if it wasn't taken before; and what was settled
// isn't.
func TestKill(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "queue")
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	put, took := make(map[string]bool), make(map[string]bool)
	for range rounds {
		cmd, lines := process(t, "churn", path)
		end, taking := 500+rand.IntN(2000), ""
		for i := 0; lines.Scan(); i++ {
			what, n, _ := strings.Cut(lines.Text(), " ")
			switch what {
			case "put":
				put[n] = true
			case "taking":
				taking = n
			case "took":
				took[n] = true
			default:
				t.Fatal(lines.Text())
			}
			if i == end {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		cmd.Wait()

		q := mustOpen(t, path)
		waiting, _ := contents(t, q)
		if err := q.Close(); err != nil { // the next process gets them again
			t.Fatal(err)
		}
		there := make(map[string]bool)
		for n, times := range waiting {
			there[fmt.Sprint(n)] = true
			if times > 1 || took[fmt.Sprint(n)] {
				t.Errorf("record %d is there %d times; it was settled: %v", n, times, took[fmt.Sprint(n)])
			}
		}
		for n := range put {
			if !there[n] && !took[n] && n == taking {
				took[n] = true
			} else if !there[n] && !took[n] {
				t.Errorf("record %s is lost", n)
			}
		}
	}
	if len(put) < rounds*100 || len(took) < rounds*10 {
		t.Errorf("only %d records were put, and %d taken", len(put), len(took))
	}
	t.Logf("%d records were put, and %d taken", len(put), len(took))
}

// TestLocked opens a queue that another process uses.
func TestLocked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "queue")
	cmd, lines := process(t, "hold", path)
	if !lines.Scan() || lines.Text() != "open" {
		t.Fatal(lines.Text())
	}
	_, err := open(path, "", defaultMaxSize, files.OS{}, logger(t)) // and doesn't wait for ever
	if err == nil || !strings.Contains(err.Error(), path+" is in use by another process") {
		t.Fatalf("error %v, want one that names the directory and the reason", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	prefill(t, mustOpen(t, path), "d", 1)
}
