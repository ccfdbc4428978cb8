package integration

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// What becomes of a record. The words are the README's.
const (
	delivered = "is delivered"
	waits     = "waits"
	condemned = "is a dead letter"
)

// fault is one way for a tracker to be ill.
type fault struct {
	name string
	row  string // of the README's table of answers
	want string
	ill  func(t *testing.T) patient
	// reason is what the operator reads about it.
	reason string
	// asked is how long the tracker asks to be left alone.
	asked time.Duration
	// long makes records so long that they are sent as POST.
	long bool
	// timeout is for a tracker that takes all the time it is given. Others have
	// more than a busy machine needs.
	timeout string
}

// patient is a tracker that is ill.
type patient struct {
	*harness.Tracker
	endpoint string
	heal     func()
	// moved is the address at which it is well, if that is another.
	moved string
	// leaked is what somebody else got, who should get nothing.
	leaked func() int
}

// answering is a tracker that is ill by what it answers.
func answering(ill http.HandlerFunc) func(*testing.T) patient {
	return func(t *testing.T) patient {
		trk := &harness.Tracker{Recorder: harness.StartRecorder(t, ill)}
		return patient{Tracker: trk, endpoint: trk.URL, heal: func() { trk.Respond(harness.AnswerGIF) }}
	}
}

// sending is a tracker that sends bytes instead of an answer, does what else
// it likes with the connection, and closes it.
func sending(text string, then func(http.ResponseWriter, *http.Request, io.Writer)) func(*testing.T) patient {
	return answering(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, text)
		if then != nil {
			then(w, r, conn)
		}
	})
}

const gifHeader = "HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\n"

// trickle sends bytes until the other side has enough: as fast as it can, or
// slowly.
func trickle(slowly bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		harness.AnswerGIF(w, r)
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 100)); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			if slowly {
				<-ticker.C
			}
		}
	}
}

// redirectTo answers with a redirect; %s is the request's target.
func redirectTo(status int, location string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", strings.ReplaceAll(location, "%s", r.RequestURI))
		w.WriteHeader(status)
	}
}

// moving is a tracker that redirects once, to the same address with another
// path, where it is well.
func moving(status int, location string) func(*testing.T) patient {
	return answering(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/new/") {
			harness.AnswerGIF(w, r)
			return
		}
		redirectTo(status, location)(w, r)
	})
}

// stranger is another host that the tracker redirects to.
func stranger(status int) func(*testing.T) patient {
	return func(t *testing.T) patient {
		other := harness.StartRecorder(t, harness.AnswerGIF)
		p := answering(redirectTo(status, "http://localhost:"+other.Addr[strings.LastIndex(other.Addr, ":")+1:]+"%s"))(t)
		p.leaked = func() int { return len(other.Got()) }
		return p
	}
}

func refusing(t *testing.T) patient {
	trk := harness.StartTracker(t)
	trk.Down()
	return patient{Tracker: trk, endpoint: trk.URL, heal: trk.Up}
}

func unknownHost(t *testing.T) patient {
	trk := harness.StartTracker(t)
	return patient{Tracker: trk, endpoint: "http://tracker.invalid", moved: trk.URL, heal: func() {}}
}

func date(in time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", time.Now().Add(in).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// The rows of the README's table of answers.
const (
	rowTaken     = "answers with 200–299 or 304"
	rowBody      = "does so, but the body is slow, endless or cut off"
	rowHTML      = "answers with 200–299 and a web page: a login, a proxy, a parked domain"
	rowFollowed  = "redirects within its host, or from http to https there, keeping method and query"
	rowAstray    = "redirects in any other way, or in a circle"
	rowCondemned = "answers with 400, 410, 413, 414, 415, 422 or 431"
	rowStatus    = "answers with any other status, such as 401, 403, 404, 408, 425, 429 or 5xx"
	rowAfter     = "answers with 429 or 503 and `Retry-After`, in seconds or as a date"
	rowNetwork   = "isn't found (DNS), refuses, never answers, resets, or doesn't speak HTTP"
	rowTLS       = "has a certificate that is unknown, expired or another host's, or none"
)

func faults() []fault {
	var all []fault
	add := func(row, want, name, reason string, ill func(*testing.T) patient) *fault {
		all = append(all, fault{name: name, row: row, want: want, ill: ill, reason: reason})
		return &all[len(all)-1]
	}
	for _, status := range []int{200, 201, 202, 204, 206, 304} {
		add(rowTaken, delivered, strconv.Itoa(status), "", answering(harness.AnswerStatus(status)))
	}

	add(rowBody, delivered, "slow body", "", answering(trickle(true))).timeout = "10s" // its header counts
	add(rowBody, delivered, "endless body", "", answering(trickle(false)))
	add(rowBody, delivered, "body cut off", "", sending(gifHeader+"Content-Length: 1000\r\n\r\nGIF89a", nil))
	add(rowHTML, waits, "web page", "web page", answering(harness.AnswerHTML(200, "<title>Room number?</title>")))
	add(rowHTML, waits, "endless web page", "web page", answering(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		trickleHTML(w, r)
	}))
	for _, status := range []int{301, 302, 303, 307, 308} {
		add(rowFollowed, delivered, fmt.Sprint(status, " to another path"), "", moving(status, "/new%s"))
	}
	add(rowFollowed, delivered, "308 of a POST", "", moving(308, "/new%s")).long = true
	add(rowFollowed, delivered, "301 to https", "", upgrading)
	add(rowAstray, waits, "301 to another host", "isn't followed", stranger(301))
	add(rowAstray, waits, "307 to another host", "isn't followed", stranger(307)).long = true
	add(rowAstray, waits, "302 of a POST", "loses the record", moving(302, "/new%s")).long = true
	add(rowAstray, waits, "302 without the query", "loses the record", answering(redirectTo(302, "/login")))
	add(rowAstray, waits, "302 to nowhere", "nowhere", answering(redirectTo(302, "")))
	add(rowAstray, waits, "301 in a circle", "redirects", answering(redirectTo(301, "%s")))
	for _, status := range []int{400, 410, 413, 414, 415, 422, 431} {
		add(rowCondemned, condemned, strconv.Itoa(status), http.StatusText(status), answering(harness.AnswerStatus(status)))
	}
	for _, status := range []int{401, 402, 403, 404, 405, 406, 407, 408, 409, 411, 412, 418, 421, 423, 425, 426, 429, 451, 499, 500, 501, 502, 503, 504, 520, 599} {
		add(rowStatus, waits, fmt.Sprintf("answer %d", status), http.StatusText(status), answering(harness.AnswerStatus(status)))
	}
	add(rowStatus, waits, "401 and a web page", "key", answering(harness.AnswerHTML(401, "<title>Log in</title>")))
	add(rowStatus, waits, "101", "", sending("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", untilGone))
	add(rowAfter, waits, "429 for an hour", "Too Many", answering(harness.AnswerStatus(429, "Retry-After", "3600"))).asked = time.Hour
	add(rowAfter, waits, "503 for an hour", "Unavailable", answering(harness.AnswerStatus(503, "Retry-After", "3600"))).asked = time.Hour
	add(rowAfter, waits, "503 until a date", "Unavailable", answering(date(2*time.Hour))).asked = 2 * time.Hour
	add(rowAfter, waits, "503 for a century", "Unavailable", answering(harness.AnswerStatus(503, "Retry-After", "3155760000"))).asked = 24 * time.Hour
	add(rowAfter, waits, "429 for nonsense", "Too Many", answering(harness.AnswerStatus(429, "Retry-After", "soon")))
	add(rowNetwork, waits, "connection refused", "refused", refusing)
	add(rowNetwork, waits, "unknown host", "", unknownHost)
	add(rowNetwork, waits, "accepts and never answers", "in time", answering(harness.AnswerNever)).timeout = "2s"
	add(rowNetwork, waits, "never accepts", "in time", deaf).timeout = "2s"
	add(rowNetwork, waits, "half a header", "", sending(gifHeader, untilGone)).timeout = "2s"
	add(rowNetwork, waits, "reset", "reset", answering(harness.AnswerReset))
	add(rowNetwork, waits, "reset within the header", "", sending(gifHeader, func(_ http.ResponseWriter, _ *http.Request, conn io.Writer) { reset(conn) }))
	add(rowNetwork, waits, "closed without an answer", "", sending("", nil))
	add(rowNetwork, waits, "another protocol", "", sending("SSH-2.0-OpenSSH_9.2\r\n", nil))
	add(rowNetwork, waits, "endless header", "", sending(gifHeader+"X: "+strings.Repeat("x", 1<<20)+"\r\n\r\n", nil))
	add(rowTLS, waits, "unknown certificate", "certificate", secured("unknown"))
	add(rowTLS, waits, "expired certificate", "certificate", secured("expired"))
	add(rowTLS, waits, "another host's certificate", "certificate", secured("other"))
	add(rowTLS, waits, "no TLS", "", func(t *testing.T) patient {
		plain, well := harness.StartTracker(t), secured("good")(t)
		well.endpoint, well.moved = "https://"+plain.Addr, well.endpoint
		return well
	})
	return all
}

func trickleHTML(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := io.WriteString(w, "<p>"); err != nil {
			return
		}
	}
}

// untilGone waits until the client hangs up.
func untilGone(_ http.ResponseWriter, _ *http.Request, conn io.Writer) {
	_, _ = io.Copy(io.Discard, conn.(io.Reader))
}

// TestFaults has a tracker for each way of being ill, all in one Caddy. What
// becomes of the records is what the README promises, the operator can read
// why, and when the trackers are well again everything arrives that didn't.
func TestFaults(t *testing.T) {
	t.Parallel()
	const records = 3
	upstream := harness.StartUpstream(t)
	all := faults()
	patients := make([]patient, len(all))
	for i, f := range all {
		patients[i] = f.ill(t)
	}
	id := func(i int) string { return strings.ReplaceAll(all[i].name, " ", "_") }
	sites := func(well bool) string {
		var b strings.Builder
		for i, p := range patients {
			endpoint, timeout := p.endpoint, cmp.Or(all[i].timeout, "1m")
			if well {
				endpoint, timeout = cmp.Or(p.moved, p.endpoint), "1m"
			}
			fmt.Fprintf(&b, "http://f%d.localhost:$PORT {\n\ttagged_urls {\n\t\ttracker kissmetrics SECRETKEY {\n"+
				"\t\t\tid %s\n\t\t\tendpoint %s\n\t\t\ttimeout %s\n\t\t\tconcurrency 4\n\t\t}\n\t}\n\treverse_proxy $UPSTREAM\n}\n",
				i, id(i), endpoint, timeout)
		}
		return b.String()
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	harness.WriteFile(t, file, harness.Authority().PEM)
	c := harness.StartCaddy(t, "", sites(false), harness.Vars{"UPSTREAM": upstream.Addr, "SSL_CERT_FILE": file})

	v := harness.NewVisitor(t)
	for n := range records {
		for i, f := range all {
			link := fmt.Sprintf("%s/?kme=E&kmi=ann%d&km_hit=%d", c.URL, i, n)
			if f.long {
				link += "&km_long=" + strings.Repeat("x", 3000)
			}
			if p := v.Load(link, "image", "Host", fmt.Sprintf("f%d.localhost", i)); p.Status != http.StatusOK {
				t.Errorf("%s: the visitor got %d", f.name, p.Status)
			}
		}
	}
	began := time.Now()
	results := map[string]string{delivered: "delivered", waits: "retried", condemned: "dead"}
	pending := "" // what isn't so yet
	defer func() {
		if t.Failed() {
			t.Logf("the last that was waited for: %s", pending)
		}
	}()
	harness.Eventually(t, "the records' fate", func() bool {
		deliveries, states := c.Deliveries(), c.Trackers(t)
		for i, f := range all {
			least, waiting, dead := records, 0, 0
			switch f.want {
			case waits:
				least, waiting = 1, records // the others needn't be tried now
			case condemned:
				dead = records
			}
			pending = f.name
			if state := states[id(i)]; deliveries[id(i)][results[f.want]] < least || state.Records != waiting || state.DeadLetters != dead {
				return false
			}
		}
		return true
	})
	var lines map[string][]string
	harness.Eventually(t, "the operator to read of all trackers", func() bool {
		lines = make(map[string][]string)
		for _, line := range c.Lines() {
			if m := trackerOfLine.FindStringSubmatch(line); m != nil {
				lines[m[1]] = append(lines[m[1]], line)
			}
		}
		for i, f := range all {
			if pending = f.name; f.want != delivered && lines[id(i)] == nil {
				return false
			}
		}
		return true
	})
	states, deliveries := c.Trackers(t), c.Deliveries()
	for i, f := range all {
		if n := deliveries[id(i)]; f.want != waits && (len(n) != 1 || n[results[f.want]] != records) {
			t.Errorf("%s: the deliveries of %d records were %v", f.name, records, n)
		}
		f.explained(t, lines[id(i)], states[id(i)], began)
		if leaked := patients[i].leaked; leaked != nil && leaked() > 0 {
			t.Errorf("%s: the other host got the record", f.name)
		}
	}
	c.FewLines(t, len(all))

	for i, f := range all {
		patients[i].heal()
		if f.want == condemned {
			c.API("POST", "/tagged_urls/dead_letters/retry?tracker="+id(i))
		}
	}
	c.Reload("", sites(true))
	c.Drained()
	for i, f := range all {
		// What was delivered isn't sent again; of the others the answer that a
		// tracker gives when it is well counts.
		took := map[string]int{}
		for _, r := range patients[i].Got() {
			if f.want == delivered && (r.Status/100 != 3 || r.Status == 304) || r.Type == "image/gif" && r.Status == 200 {
				took[r.Params().Get("hit")]++
			}
		}
		if fmt.Sprint(took) != "map[0:1 1:1 2:1]" {
			t.Errorf("%s: the tracker took %v", f.name, took)
		}
	}
	c.LostNothing(t)
	if c.Logged("SECRETKEY") || c.Logged("ann1") {
		t.Error("the log has a key or an identity")
	}
}

// trackerOfLine finds the tracker that a logged line is about.
var trackerOfLine = regexp.MustCompile(`"tracker":"([^"]*)"`)

// explained fails the test unless the operator can read what is wrong, in one
// line of the log and in the status, and for how long it waits.
func (f fault) explained(t *testing.T, lines []string, state harness.TrackerState, began time.Time) {
	t.Helper()
	if f.want == delivered {
		if len(lines) > 0 {
			t.Errorf("%s: logged %s", f.name, lines)
		}
		return
	}
	if len(lines) != 1 || !strings.Contains(lines[0], f.reason) {
		t.Errorf("%s: logged %d lines, want one that says %q: %s", f.name, len(lines), f.reason, lines)
	}
	if f.want == condemned {
		return
	}
	if !strings.Contains(state.LastError, f.reason) {
		t.Errorf("%s: the status says %q, not %q", f.name, state.LastError, f.reason)
	}
	if f.asked == 0 {
		if state.PausedUntil != nil && time.Until(*state.PausedUntil) > 6*time.Minute {
			t.Errorf("%s: paused until %s", f.name, state.PausedUntil)
		}
		return
	}
	if state.PausedUntil == nil {
		t.Errorf("%s: isn't paused, but it asked for %s", f.name, f.asked)
	} else if pause := state.PausedUntil.Sub(began); pause < f.asked-10*time.Minute || pause > f.asked+10*time.Minute {
		t.Errorf("%s: paused for %s, but it asked for %s", f.name, pause, f.asked)
	}
}

// TestTooOld: what couldn't be delivered within max_age is a dead letter. One
// that is retried has as long again, so it can still be delivered.
func TestTooOld(t *testing.T) {
	t.Parallel()
	c, trk, _ := startShop(t, "tagged_urls {\n\t\tmax_age 1s\n\t}", shop)
	trk.Respond(harness.AnswerStatus(500))
	harness.NewVisitor(t).Load(c.URL+"/?kme=E&kmi=ann", "image")
	dies := func() {
		t.Helper()
		harness.Eventually(t, "a dead letter", func() bool {
			c.API("POST", "/tagged_urls/retry")
			return c.Metric("caddy_tagged_urls_dead_letters") == 1
		})
		if list := c.API("GET", "/tagged_urls/dead_letters"); !strings.Contains(list, "too old") {
			t.Errorf("the dead letters are %s", list)
		}
	}
	dies()
	before := len(trk.Got())
	// A slow machine may need more than the second; so this retries again.
	retryUntil := func(what string, condition func() bool) {
		t.Helper()
		harness.Eventually(t, what, func() bool {
			c.API("POST", "/tagged_urls/dead_letters/retry")
			return condition()
		})
	}
	retryUntil("it to be tried again", func() bool { return len(trk.Got()) > before })
	dies()
	trk.Respond(harness.AnswerGIF)
	retryUntil("it to be delivered", func() bool { return len(trk.Records(t)) == 1 })
	trk.Expect(t, c, []string{"ann"}, "/e person=ann name=E")
	c.LostNothing(t)
}
