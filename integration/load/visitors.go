//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// browser is what a browser sends with a click in a mail.
const browser = "Host: shop.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en\r\n" +
	"Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-User: ?1\r\n" +
	"Upgrade-Insecure-Requests: 1\r\n\r\n"

// persons counts tagged requests: each is another person's.
var persons atomic.Int64

// pages are what visitors open.
type pages struct {
	next func() string
	lua  string // the same for wrk's script, where n counts
}

var (
	untagged = pages{
		func() string {
			return "/offer?utm_source=newsletter&utm_medium=email&utm_campaign=spring%20sale&id=48151623&page=2"
		},
		`"/offer?utm_source=newsletter&utm_medium=email&utm_campaign=spring%20sale&id=48151623&page=2"`,
	}
	tagged = pages{
		func() string {
			return fmt.Sprintf("/offer?kme=Clicked+Link&kmi=customer%d%%40example.com&km_Link+Location=top", persons.Add(1))
		},
		`string.format("/offer?kme=Clicked+Link&kmi=customer%d%%40example.com&km_Link+Location=top", n)`,
	}
)

// crowd is what some visitors at once did.
type crowd struct {
	requests int
	elapsed  time.Duration
	p50, p99 time.Duration
	all      int // requests, those of the warm-up too
}

func (c crowd) throughput() float64 { return float64(c.requests) / c.elapsed.Seconds() }

// visit has visitors open pages, each one after the other on a connection of
// its own, until enough says so. What they do during the warm-up isn't counted.
func visit(address string, visitors int, warmUp time.Duration, page func() string, enough func() bool) (c crowd, err error) {
	var group sync.WaitGroup
	took := make([][]time.Duration, visitors)
	errs := make([]error, visitors)
	var all atomic.Int64
	counted := time.Now().Add(warmUp)
	for i := range visitors {
		group.Go(func() {
			var v *visitor
			if v, errs[i] = newVisitor(address); errs[i] != nil {
				return
			}
			defer v.conn.Close()
			for !enough() {
				began := time.Now()
				if errs[i] = v.open(page()); errs[i] != nil {
					return
				}
				all.Add(1)
				if ended := time.Now(); !began.Before(counted) {
					took[i] = append(took[i], ended.Sub(began))
				}
			}
		})
	}
	group.Wait()
	c.elapsed, c.all = time.Since(counted), int(all.Load())
	if err := errors.Join(errs...); err != nil {
		return c, err
	}
	sorted := slices.Concat(took...)
	slices.Sort(sorted)
	if c.requests = len(sorted); c.requests == 0 {
		return c, fmt.Errorf("no visitor got a page within %s", c.elapsed)
	}
	c.p50, c.p99 = sorted[(len(sorted)-1)*50/100], sorted[(len(sorted)-1)*99/100]
	return c, nil
}

// visitFor is visit for a round.
func visitFor(address string, visitors int, page func() string) (crowd, error) {
	end := time.Now().Add(*warmUp + *round)
	return visit(address, visitors, *warmUp, page, func() bool { return !time.Now().Before(end) })
}

// visitor is a keep-alive connection. It knows as much of HTTP as it needs, so
// as to leave the processors to Caddy.
type visitor struct {
	conn    net.Conn
	r       *bufio.Reader
	request []byte
}

func newVisitor(address string) (*visitor, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &visitor{conn: conn, r: bufio.NewReader(conn)}, nil
}

// open asks for a page and reads the answer.
func (v *visitor) open(page string) error {
	v.request = append(append(append(append(v.request[:0], "GET "...), page...), " HTTP/1.1\r\n"...), browser...)
	if _, err := v.conn.Write(v.request); err != nil {
		return err
	}
	if err := v.conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	status, err := v.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("%s was answered with %s", page, status)
	}
	length := -1
	for {
		line, err := v.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(": "))
		if len(name) == 0 {
			break
		}
		if string(name) == "Content-Length" {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("the answer to %s has no length", page)
	}
	_, err = v.r.Discard(length)
	return err
}
