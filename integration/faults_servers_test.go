package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// issuer makes certificates.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

// authority is the issuer that Caddy trusts in tests that say so, nobodys one
// that nobody trusts.
var (
	authority = sync.OnceValue(newIssuer)
	nobodys   = sync.OnceValue(newIssuer)
)

func newIssuer() *issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tests"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	template.Raw = der
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &issuer{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// issue makes a certificate for an address, good until the given moment.
func (ca *issuer) issue(t *testing.T, ip string, until time.Time) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: ip}, IPAddresses: []net.IP{net.ParseIP(ip)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &ca.key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: ca.key}
}

// secured is a tracker on HTTPS whose certificate is good, or what is wrong
// with it.
func secured(wrong string) func(*testing.T) patient {
	return func(t *testing.T) patient {
		good := authority().issue(t, "127.0.0.1", time.Now().Add(time.Hour))
		shown := good
		switch wrong {
		case "unknown":
			shown = nobodys().issue(t, "127.0.0.1", time.Now().Add(time.Hour))
		case "expired":
			shown = authority().issue(t, "127.0.0.1", time.Now().Add(-time.Minute))
		case "other":
			shown = authority().issue(t, "127.0.0.2", time.Now().Add(time.Hour))
		}
		var current atomic.Pointer[tls.Certificate]
		current.Store(shown)
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		r := &recorder{Addr: l.Addr().String(), URL: "https://" + l.Addr().String(), t: t, answer: answerGIF}
		r.server = &http.Server{Handler: r, ErrorLog: log.New(io.Discard, "", 0)}
		go func() { _ = r.server.Serve(l) }()
		t.Cleanup(r.down)
		return patient{tracker: &tracker{recorder: r}, endpoint: r.URL, heal: func() { current.Store(good) }}
	}
}

// upgrading is a tracker that sends everybody from HTTP to HTTPS.
func upgrading(t *testing.T) patient {
	p := secured("good")(t)
	plain := startRecorder(t, redirectTo(http.StatusMovedPermanently, p.URL+"%s"))
	p.endpoint = plain.URL
	return p
}

// deaf is a tracker whose machine takes no connection: packets go into a black
// hole.
func deaf(t *testing.T) patient {
	trk := startTracker(t)
	trk.down()
	l := listen(t, trk.Addr)
	t.Cleanup(func() { l.Close() })
	// Listening again sets how many connections may wait to be accepted.
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { _ = syscall.Listen(int(fd), 0) })
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
			return patient{tracker: trk, endpoint: trk.URL, heal: func() { hangUp(); l.Close(); trk.up() }}
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
