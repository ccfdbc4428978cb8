package doctor

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

const (
	// onlineTimeout is how long a tracker's answer is waited for.
	onlineTimeout = 10 * time.Second
	// mostSkew is how far two clocks may differ that are kept right: a Date
	// has whole seconds, and takes its time.
	mostSkew = 30 * time.Second
	// tooMuchSkew is what receivers of webhooks refuse, as the Standard Webhooks
	// specification recommends.
	tooMuchSkew = 5 * time.Minute
)

// trackers asks whether trackers can be reached, and what time it is there: by a
// HEAD of the root, which records nothing.
func (e *examination) trackers() {
	seen := make(map[string]bool)
	e.eachTracker(func(s *site, t *app.Tracker) {
		named, ok := t.Module.(delivery.Identifier)
		if !ok {
			return
		}
		endpoint, _ := named.Identity()
		root, err := url.Parse(endpoint)
		if err != nil || root.Host == "" {
			return
		}
		root = &url.URL{Scheme: root.Scheme, Host: root.Host, Path: "/"}
		if seen[root.String()] {
			return
		}
		seen[root.String()] = true
		e.ask(e.where(s, "endpoint", t.Name, "tagged_urls"), root.String())
	})
	e.fine(checkTracker, "no tracker is on the network")
}

func (e *examination) ask(where, root string) {
	req, err := http.NewRequestWithContext(e.ctx, http.MethodHead, root, nil)
	if err != nil {
		e.found(Error, checkTracker, where, err.Error(), "")
		return
	}
	client := *e.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	asked := e.Now()
	resp, err := client.Do(req)
	if err != nil {
		e.found(Error, checkTracker, where, fmt.Sprintf("the tracker can't be reached: %v", err),
			"let this machine get there (firewall, DNS, HTTPS_PROXY in Caddy's environment); records wait meanwhile")
		return
	}
	resp.Body.Close()
	took := e.Now().Sub(asked)
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		e.found(OK, checkTracker, where, root+" answers; it doesn't say what time it is there", "")
		return
	}
	skew := asked.Add(took / 2).Sub(date).Round(time.Second)
	which, severity := "ahead of", Warning
	if skew < 0 {
		which, skew = "behind", -skew
	}
	if skew >= tooMuchSkew {
		severity = Error
	}
	if skew > mostSkew+took {
		e.found(severity, checkTracker, where, fmt.Sprintf("this machine's clock is %s %s that of %s: events get wrong times, and signatures of webhooks are refused", skew, which, root),
			"have the clock kept right, by NTP (`timedatectl set-ntp true`)")
		return
	}
	e.found(OK, checkTracker, where, root+" answers, and its clock agrees", "")
}
