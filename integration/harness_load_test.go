package integration

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
)

// load is a crowd of visitors who click tagged links. Each hit has a property
// `hit` of its own.
type load struct {
	stopping chan struct{}
	workers  sync.WaitGroup

	mu   sync.Mutex
	hits map[string]answered
}

// answered is a hit whose response had begun.
type answered struct {
	Person string
	Header http.Header
}

// loads makes the hits of all crowds different.
var loads struct {
	sync.Mutex
	n int
}

// startLoad starts a crowd that opens pages of a site until it is stopped.
func startLoad(t *testing.T, url string, visitors int) *load {
	t.Helper()
	return startLoadOf(t, visitors, func(person, hit string) (link, who string) {
		return url + "/?kme=Load&kmi=" + person + "&km_hit=" + hit, person
	})
}

// startLoadOf starts a crowd that follows links until it is stopped. Errors are
// fine: hits without an answer don't count.
func startLoadOf(t *testing.T, visitors int, link func(person, hit string) (link, who string)) *load {
	t.Helper()
	loads.Lock()
	loads.n++
	crowd := loads.n
	loads.Unlock()
	l := &load{stopping: make(chan struct{}), hits: map[string]answered{}}
	for i := range visitors {
		v := newVisitor(t)
		person := fmt.Sprintf("person%d-%d", crowd, i)
		l.workers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-l.stopping:
					return
				default:
				}
				hit := fmt.Sprintf("%d-%d-%d", crowd, i, n)
				link, who := link(person, hit)
				p, err := v.try(link, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
				if p.Status == 0 {
					continue // nothing came, so nothing was promised
				}
				if err == nil && p.Status != http.StatusOK {
					t.Errorf("hit %s was answered with status %d", hit, p.Status)
				}
				l.mu.Lock()
				l.hits[hit] = answered{who, p.Header}
				l.mu.Unlock()
			}
		})
	}
	t.Cleanup(func() { l.stop() })
	return l
}

// count returns how many hits were answered.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.hits)
}

// reach waits until so many hits more were answered.
func (l *load) reach(t *testing.T, more int) {
	t.Helper()
	goal := l.count() + more
	eventually(t, fmt.Sprintf("%d answered hits", goal), func() bool { return l.count() >= goal })
}

// stop ends the load and returns the hits that were answered.
func (l *load) stop() map[string]answered {
	select {
	case <-l.stopping:
	default:
		close(l.stopping)
	}
	l.workers.Wait()
	return l.hits
}
