package harness

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Load is a crowd of visitors who click tagged links. Each hit has a property
// `hit` of its own.
type Load struct {
	stopping chan struct{}
	workers  sync.WaitGroup

	mu   sync.Mutex
	hits map[string]Answered
}

// Answered is a hit whose response had begun.
type Answered struct {
	Person string
	Header http.Header
}

// loads makes the hits of all crowds different.
var loads struct {
	sync.Mutex
	n int
}

// StartLoad starts a crowd that opens pages of a site until it is stopped.
func StartLoad(t *testing.T, url string, visitors int) *Load {
	t.Helper()
	return StartLoadOf(t, visitors, 5*time.Millisecond, func(person, hit string) (link, who string) {
		return url + "/?kme=Load&kmi=" + person + "&km_hit=" + hit, person
	})
}

// StartLoadOf starts a crowd that follows links until it is stopped. Errors are
// fine: hits without an answer don't count. A visitor clicks once per pace at
// most, so that the tests beside this one get on.
func StartLoadOf(t *testing.T, visitors int, pace time.Duration, link func(person, hit string) (link, who string)) *Load {
	t.Helper()
	loads.Lock()
	loads.n++
	crowd := loads.n
	loads.Unlock()
	l := &Load{stopping: make(chan struct{}), hits: map[string]Answered{}}
	for i := range visitors {
		v := NewVisitor(t)
		person := fmt.Sprintf("person%d-%d", crowd, i)
		l.workers.Go(func() {
			clicks := time.NewTicker(pace)
			defer clicks.Stop()
			for n := 0; ; n++ {
				select {
				case <-l.stopping:
					return
				case <-clicks.C:
				}
				hit := fmt.Sprintf("%d-%d-%d", crowd, i, n)
				link, who := link(person, hit)
				p, err := v.Try(link, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
				if p.Status == 0 {
					continue // nothing came, so nothing was promised
				}
				if err == nil && p.Status != http.StatusOK {
					t.Errorf("hit %s was answered with status %d", hit, p.Status)
				}
				l.mu.Lock()
				l.hits[hit] = Answered{who, p.Header}
				l.mu.Unlock()
			}
		})
	}
	t.Cleanup(func() { l.Stop() })
	return l
}

// Count returns how many hits were answered.
func (l *Load) Count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.hits)
}

// Reach waits until so many hits more were answered.
func (l *Load) Reach(t *testing.T, more int) {
	t.Helper()
	goal := l.Count() + more
	Eventually(t, fmt.Sprintf("%d answered hits", goal), func() bool { return l.Count() >= goal })
}

// Stop ends the load and returns the hits that were answered.
func (l *Load) Stop() map[string]Answered {
	select {
	case <-l.stopping:
	default:
		close(l.stopping)
	}
	l.workers.Wait()
	return l.hits
}
