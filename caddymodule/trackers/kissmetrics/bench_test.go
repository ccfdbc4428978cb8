//go:build unix

package kissmetrics

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery/deliverytest"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// serve says in the environment that this process is the benchmark's server.
const serve = "TAGGED_URLS_BENCHMARK_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serve) != "" {
		benchmarkServer()
		return
	}
	os.Exit(m.Run())
}

// benchmarkServer answers as little as HTTP/1.1 allows, until its input ends.
func benchmarkServer() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println("http://" + listener.Addr().String())
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					line, err := r.ReadSlice('\n')
					if err != nil {
						return
					}
					if len(bytes.TrimSpace(line)) == 0 {
						if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\nContent-Length: 6\r\n\r\nGIF89a"); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// BenchmarkDelivery is a record's way from the queue (one in memory) to a
// tracker in another process. cpu-µs/op is this process's time, user and
// system.
func BenchmarkDelivery(b *testing.B) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), serve+"=1")
	stdin, err := command.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		stdin.Close()
		_ = command.Wait()
	}()
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}

	tracker := provision(b, &Tracker{APIKey: "KEY", Endpoint: strings.TrimSpace(address)})
	queue := deliverytest.NewQueue()
	entry := delivery.Entry{Destination: "km", Record: &delivery.Record{
		Kind: delivery.Event, Time: time.Now(), Site: "example.com", Person: "john.smith@example.com", Name: "Clicked Link",
		Properties: []tagging.Property{{Name: "Link location", Value: "top"}, {Name: "Campaign", Value: "spring sale"}},
	}}
	engine := delivery.NewEngine(queue, delivery.Options{})
	defer engine.Close()

	entries := make([]delivery.Entry, 1000)
	for i := range entries {
		entries[i] = entry
	}
	b.ReportAllocs()
	before := cpu(b)
	n := 0
	for b.Loop() {
		if n++; n%len(entries) == 0 { // put as a busy site does: in groups
			if err := queue.Put(context.Background(), entries...); err != nil {
				b.Fatal(err)
			}
			if n == len(entries) {
				engine.Use([]delivery.Destination{{ID: "km", Tracker: tracker}})
			}
			engine.Drain(context.Background())
		}
	}
	if n >= len(entries) {
		b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n-n%len(entries)), "cpu-µs/op")
	}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
