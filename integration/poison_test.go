package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// TestPoison: after an outage a webhook takes nothing that holds a certain
// word. All the others are delivered all the same, and soon.
func TestPoison(t *testing.T) {
	t.Parallel()
	const hits, every = 2000, 100
	var mu sync.Mutex
	got, requests, down := make(map[string]int), 0, true
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var records []struct{ Name string }
		err := json.Unmarshal(body, &records)
		mu.Lock()
		defer mu.Unlock()
		requests++
		if down || err != nil || strings.Contains(string(body), "poison") {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		for _, r := range records {
			got[r.Name]++
		}
	}))
	t.Cleanup(hook.Close)
	c := harness.StartCaddy(t, "", `
http://:$PORT {
	tagged_urls {
		tracker webhook $HOOK
		once off
	}
	respond "page"
}`, harness.Vars{"HOOK": hook.URL})

	var visitors sync.WaitGroup
	for v := range 4 {
		visitors.Go(func() {
			visitor := harness.NewVisitor(t)
			for i := v; i < hits; i += 4 {
				name := fmt.Sprint("E", i)
				if i%every == 0 {
					name = "poison" + name
				}
				if a, err := visitor.Try(c.URL+"/?kme="+name, "Accept", "text/html"); err != nil || a.Status != http.StatusOK {
					t.Errorf("a visitor got %d, %v", a.Status, err)
				}
			}
		})
	}
	visitors.Wait()
	mu.Lock()
	outage := requests
	down = false
	mu.Unlock()
	c.API("POST", "/tagged_urls/retry")
	began := time.Now()
	harness.Eventually(t, "what isn't poison to be delivered", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) == hits-hits/every
	})
	mu.Lock()
	defer mu.Unlock()
	t.Logf("delivered in %s, by %d requests; %d during the outage", time.Since(began), requests-outage, outage)
	for name, n := range got {
		if n != 1 {
			t.Errorf("%s was delivered %d times", name, n)
		}
	}
	harness.Eventually(t, "what is poison to wait alone", func() bool {
		return c.Metric("caddy_tagged_urls_queue_records") == hits/every
	})
	if n := c.Metric("caddy_tagged_urls_dead_letters"); n != 0 {
		t.Errorf("%v dead letters", n)
	}
}
