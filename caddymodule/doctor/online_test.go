package doctor

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestOnline asks trackers, in ways that record nothing.
func TestOnline(t *testing.T) {
	now := time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)
	for name, test := range map[string]struct {
		date   string
		status int
		want   string
	}{
		"the same time":    {now.Format(http.TimeFormat), 404, "ok       tracker: Caddyfile:4: "},
		"some seconds":     {now.Add(20 * time.Second).Format(http.TimeFormat), 200, "ok       tracker: Caddyfile:4: "},
		"a minute behind":  {now.Add(time.Minute).Format(http.TimeFormat), 405, "warning  tracker: Caddyfile:4: this machine's clock is 1m0s behind that of http://"},
		"an hour ahead":    {now.Add(-time.Hour).Format(http.TimeFormat), 302, "error    tracker: Caddyfile:4: this machine's clock is 1h0m0s ahead of that of"},
		"no time":          {"", 200, "ok       tracker: Caddyfile:4: "},
		"nobody is there":  {"-", 0, "error    tracker: Caddyfile:4: the tracker can't be reached: "},
		"a time that isnt": {"yesterday", 200, "ok       tracker: Caddyfile:4: "},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var asked []string
			tracker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, r.Method+" "+r.RequestURI)
				w.Header()["Date"] = nil
				if test.date != "" {
					w.Header().Set("Date", test.date)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
			}))
			defer tracker.Close()
			url := tracker.URL
			if test.status == 0 {
				url = "http://127.0.0.1:1"
			}
			findings := look(t, "example.com {\n\ttagged_urls {\n\t\ttracker log\n\t\ttracker webhook "+url+"/take?token=secret\n\t}\n}\n",
				Options{Online: true, Now: func() time.Time { return now }})
			got := of(findings, checkTracker)
			if !strings.HasPrefix(got, test.want) || strings.Contains(got, "secret") {
				t.Errorf("found %s; want %s", got, test.want)
			}
			mu.Lock()
			defer mu.Unlock()
			if test.status != 0 && strings.Join(asked, ", ") != "HEAD /" {
				t.Errorf("asked for %q", asked)
			}
		})
	}
	t.Run("not asked", func(t *testing.T) {
		if got := of(look(t, "example.com {\n\ttagged_urls {\n\t\ttracker log\n\t}\n}\n", Options{}), checkTracker); got != "" {
			t.Error(got)
		}
	})
}
