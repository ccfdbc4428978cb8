package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// cheapHash is the documentation's password, hashed at the least cost: with the
// race detector, its own hash takes ten seconds a request.
var cheapHash = strings.NewReplacer("$2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG",
	"$2a$04$6N0Xd0GQCe6nLcDmOM.5Me715UTKMp6Px0l7U8hHe92YTPrQgvF8u")

// consoleExample is the documentation's configuration that has a word in it,
// for sites and files that are here.
func consoleExample(t *testing.T, word string, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "console.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)[ ]*```caddyfile\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		if strings.Contains(m[1], word) {
			return cheapHash.Replace(strings.NewReplacer(replace...).Replace(m[1]))
		}
	}
	t.Fatalf("docs/console.md has no example with %s", word)
	return ""
}

// TestConsoleAuthentication tries each way that the documentation shows.
func TestConsoleAuthentication(t *testing.T) {
	t.Parallel()
	gateway := harness.StartRecorder(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Cookie") {
		case "session=alice":
			w.Header().Set("Remote-User", "alice")
		case "session=unnamed":
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	authority := harness.NewIssuer()
	ca := filepath.Join(harness.ShortDir(t), "ca.pem")
	if err := os.WriteFile(ca, []byte(authority.PEM), 0o600); err != nil {
		t.Fatal(err)
	}
	tlsPort, pathPort := harness.FreePort(t), harness.FreePort(t)
	sites := consoleExample(t, "\tbasic_auth", "console.example.com", "http://basic.localhost:$PORT") +
		consoleExample(t, "forward_auth", "console.example.com", "http://gateway.localhost:$PORT", "authelia:9091", gateway.Addr) +
		consoleExample(t, "client_auth", "console.example.com", fmt.Sprintf("https://certificate.localhost:%d", tlsPort), "tls {", "tls internal {", "company-ca.pem", ca) +
		consoleExample(t, "handle_path", "example.com", fmt.Sprintf("http://path.localhost:%d", pathPort), "{env.KISSMETRICS_API_KEY}", "KEY", "app:3000", gateway.Addr) +
		"\nhttp://open.localhost:$PORT {\n\ttagged_urls_console\n}\n"
	c := harness.StartCaddy(t, "", sites, nil)
	authority2 := harness.NewIssuer()
	for _, test := range []struct {
		name, url, user, password, cookie string
		certificate                       *tls.Certificate
		want                              int // 0: no connection
	}{
		{name: "nobody", url: "http://open.localhost:$PORT/", want: 403},
		{name: "a name that nobody has checked", url: "http://open.localhost:$PORT/", user: "alice", password: "x", want: 403},
		{name: "basic_auth, nobody", url: "http://basic.localhost:$PORT/", want: 401},
		{name: "basic_auth, wrong", url: "http://basic.localhost:$PORT/", user: "alice", password: "x", want: 401},
		{name: "basic_auth", url: "http://basic.localhost:$PORT/", user: "alice", password: "hiccup", want: 200},
		{name: "basic_auth, data", url: "http://basic.localhost:$PORT/state", user: "alice", password: "hiccup", want: 200},
		{name: "forward_auth, nobody", url: "http://gateway.localhost:$PORT/", want: 401},
		{name: "forward_auth", url: "http://gateway.localhost:$PORT/", cookie: "session=alice", want: 200},
		{name: "forward_auth that names nobody", url: "http://gateway.localhost:$PORT/", cookie: "session=unnamed", want: 403},
		{name: "no certificate", url: "https://certificate.localhost:$TLS/"},
		{name: "another company's certificate", url: "https://certificate.localhost:$TLS/", certificate: authority2.Issue(t, "127.0.0.1", time.Now().Add(time.Hour))},
		{name: "a certificate", url: "https://certificate.localhost:$TLS/", certificate: authority.Issue(t, "127.0.0.1", time.Now().Add(time.Hour)), want: 200},
		{name: "a path, nobody", url: "http://path.localhost:$PATH/console/", want: 401},
		{name: "a path", url: "http://path.localhost:$PATH/console/state", user: "alice", password: "hiccup", want: 200},
	} {
		config := &tls.Config{InsecureSkipVerify: true}
		if test.certificate != nil {
			config.Certificates = []tls.Certificate{*test.certificate}
		}
		transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				_, port, _ := net.SplitHostPort(address)
				return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
			}}
		address := strings.NewReplacer("$PORT", c.Vars["PORT"], "$TLS", fmt.Sprint(tlsPort), "$PATH", fmt.Sprint(pathPort)).Replace(test.url)
		status := 0
		ask := func() error {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.user != "" {
				req.SetBasicAuth(test.user, test.password)
			}
			for _, header := range []string{"Remote-User", "X-Auth-Request-User", "X-Webauth-User"} {
				req.Header.Set(header, "mallory")
			}
			req.Header.Set("Cookie", test.cookie)
			resp, err := transport.RoundTrip(req)
			if err != nil {
				return err
			}
			resp.Body.Close()
			status = resp.StatusCode
			return nil
		}
		if test.want == 200 && test.certificate != nil { // Caddy's own takes a moment to be made
			harness.Eventually(t, test.name, func() bool { return ask() == nil })
		} else if err := ask(); (err == nil) != (test.want != 0) {
			t.Errorf("%s: %v", test.name, err)
		}
		if status != test.want {
			t.Errorf("%s: status %d, want %d", test.name, status, test.want)
		}
	}
}

// TestConsoleCommand: the command lets one browser of this machine in, and no
// other page in it.
func TestConsoleCommand(t *testing.T) {
	t.Parallel()
	b := startChromium(t)
	trk := harness.StartTracker(t)
	c := harness.StartCaddy(t, "", strings.ReplaceAll(consoleSites, "console.localhost", "unused.localhost"), harness.Vars{"TRACKER": trk.URL})
	binary, env := c.Command()
	printed, err := os.Create(filepath.Join(t.TempDir(), "printed"))
	if err != nil {
		t.Fatal(err)
	}
	defer printed.Close()
	console := func(args ...string) *exec.Cmd {
		cmd := exec.Command(binary, append([]string{"tagged-urls", "console", "--address", c.Admin}, args...)...)
		cmd.Env = append(os.Environ(), env...)
		return cmd
	}
	command := console()
	command.Stdout = printed
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(os.Interrupt)
		if err := command.Wait(); err != nil {
			t.Errorf("the command ended by Ctrl+C: %v", err)
		}
	})
	var address string
	harness.Eventually(t, "the address", func() bool {
		text, _ := os.ReadFile(printed.Name())
		address = regexp.MustCompile(`http://127\.0\.0\.1:\d+/\?token=\w+`).FindString(string(text))
		return address != ""
	})
	base, _, _ := strings.Cut(address, "?")
	// Another site's page whose name leads here, before and after the login.
	rebound := strings.Replace(address, "127.0.0.1", "evil.test", 1)
	b.open(rebound)
	b.seesText("body", "This console answers at")
	b.open(address)
	b.seesText("#live-status", "Watching.")
	if at := b.eval("location.href"); at != base {
		t.Errorf("the token stays in the address: %s", at)
	}
	visitAs(t, c, harness.UserAgent, "/?kme=Clicked+Link&kmi=john@example.com")
	b.sees("the hit", hitOf("Clicked Link"))
	if text := b.eval(hitOf("Clicked Link") + ".textContent"); !strings.Contains(text, "john@example.com") {
		t.Errorf("the operator doesn't see who it is: %s", text)
	}
	b.eval("location.hash = 'delivery'")
	b.seesText("#delivery-status", "0 records waiting")
	b.eval("location.hash = 'explain'")
	b.eval(fmt.Sprintf("document.querySelector('#explain-form textarea').value = %s", quote(fmt.Sprintf("http://shop.localhost:%d/?kme=X&kmi=ann", c.Port))))
	b.eval("document.querySelector('#explain-form').requestSubmit()")
	b.seesText("#explained", "X, by ann")
	b.open(rebound)
	b.seesText("body", "This console answers at")
	// Another browser has the address, but it has worked.
	resp, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("the address works a second time: status %d", resp.StatusCode)
	}
	// A reload replaces the admin API under the page.
	b.open(base)
	b.seesText("#live-status", "Watching.")
	c.Reload("", strings.ReplaceAll(consoleSites, "console.localhost", "unused.localhost")+"\nhttp://more.localhost:$PORT {\n\trespond more\n}\n")
	harness.Eventually(t, "a hit of the new configuration", func() bool {
		visitAs(t, c, harness.UserAgent, fmt.Sprintf("/?kme=Later+%d&kmi=ann", time.Now().UnixNano()))
		return b.eval("[...document.querySelectorAll('.hit .event')].some((e) => /Later \\d+/.test(e.innerText))") == "true"
	})
	for listen, want := range map[string]string{"0.0.0.0:0": "this machine alone", "127.0.0.1": "looks like 127.0.0.1:8300"} {
		if said, err := console("--listen", listen).CombinedOutput(); err == nil || !strings.Contains(string(said), want) {
			t.Errorf("--listen %s: %v %s", listen, err, said)
		}
	}
}
