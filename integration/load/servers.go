//go:build linux

package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// startSite starts the site behind Caddy, which takes so long for a page.
func startSite(takes time.Duration) (address string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	page := []byte("<!doctype html><title>Offer</title>" + strings.Repeat("<p>An offer that one can't refuse.", 30))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if takes > 0 {
			<-time.After(takes)
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(page)
	})}
	go func() { _ = server.Serve(l) }()
	return l.Addr().String(), func() { server.Close() }, nil
}

// tracker stands for Kissmetrics'. It does as little as it can: the real one
// is another machine.
type tracker struct {
	listener net.Listener
	distance time.Duration // from a request to its answer; hangs: there is none
	taken    atomic.Int64  // records
}

const hangs time.Duration = -1

func startTracker(distance time.Duration) (*tracker, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &tracker{listener: l, distance: distance}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go t.serve(conn)
		}
	}()
	return t, nil
}

func (t *tracker) url() string { return "http://" + t.listener.Addr().String() }

func (t *tracker) stop() { t.listener.Close() }

func (t *tracker) serve(conn net.Conn) {
	defer conn.Close()
	if t.distance == hangs {
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\nContent-Length: 6\r\n\r\nGIF89a")
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if len(bytes.TrimSpace(line)) > 0 {
			continue
		}
		if t.distance > 0 {
			<-time.After(t.distance)
		}
		if _, err := conn.Write(answer); err != nil {
			return
		}
		t.taken.Add(1)
	}
}
