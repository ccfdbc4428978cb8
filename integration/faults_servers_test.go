package integration

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// secured is a tracker on HTTPS whose certificate is good, or what is wrong
// with it.
func secured(wrong string) func(*testing.T) patient {
	return func(t *testing.T) patient {
		good := harness.Authority().Issue(t, "127.0.0.1", time.Now().Add(time.Hour))
		shown := good
		switch wrong {
		case "unknown":
			shown = harness.NewIssuer().Issue(t, "127.0.0.1", time.Now().Add(time.Hour))
		case "expired":
			shown = harness.Authority().Issue(t, "127.0.0.1", time.Now().Add(-time.Minute))
		case "other":
			shown = harness.Authority().Issue(t, "127.0.0.2", time.Now().Add(time.Hour))
		}
		var current atomic.Pointer[tls.Certificate]
		current.Store(shown)
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		r := harness.StartRecorderOn(t, l, "https://"+l.Addr().String(), harness.AnswerGIF)
		return patient{Tracker: &harness.Tracker{Recorder: r}, endpoint: r.URL, heal: func() { current.Store(good) }}
	}
}

// upgrading is a tracker that sends everybody from HTTP to HTTPS.
func upgrading(t *testing.T) patient {
	p := secured("good")(t)
	plain := harness.StartRecorder(t, redirectTo(http.StatusMovedPermanently, p.URL+"%s"))
	p.endpoint = plain.URL
	return p
}

// listenAgain calls syscall.Listen, which takes a file on Windows as another type.
func listenAgain[File ~int | ~uintptr](listen func(File, int) error, fd uintptr) error {
	return listen(File(fd), 0)
}

// deaf is a tracker whose machine takes no connection: packets go into a black
// hole.
func deaf(t *testing.T) patient {
	trk := harness.StartTracker(t)
	trk.Down()
	l := harness.Listen(t, trk.Addr)
	t.Cleanup(func() { l.Close() })
	// Listening again sets how many connections may wait to be accepted.
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { _ = listenAgain(syscall.Listen, fd) })
	}
	if err != nil {
		t.Fatal(err)
	}
	var waiting []net.Conn
	hangUp := func() {
		for _, conn := range waiting {
			conn.Close()
		}
	}
	t.Cleanup(hangUp)
	for len(waiting) < 10 {
		conn, err := net.DialTimeout("tcp", trk.Addr, 100*time.Millisecond)
		if err != nil {
			return patient{Tracker: trk, endpoint: trk.URL, heal: func() { hangUp(); l.Close(); trk.Up() }}
		}
		waiting = append(waiting, conn)
	}
	t.Fatal("the system takes connections that nobody accepts")
	return patient{}
}

// reset breaks a connection off.
func reset(conn io.Writer) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
		_ = tcp.Close()
	}
}
