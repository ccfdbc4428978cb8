package disk

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// stall keeps the queue from writing, until the returned function is called.
func stall(t *testing.T, q *openQueue) (resume func()) {
	t.Helper()
	began, over := make(chan struct{}), make(chan struct{})
	go q.operate(func(*txn) error {
		began <- struct{}{}
		<-over
		return nil
	})
	<-began
	return sync.OnceFunc(func() { close(over) })
}

func (q *openQueue) pendingPuts() (n, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, w := range q.pending {
		if p, ok := w.(*put); ok {
			n++
			bytes += p.size
		}
	}
	return n, bytes
}

// TestPutGivesUp cancels puts before and while they are written.
func TestPutGivesUp(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	resume := stall(t, q)
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error)
	put := func(n int) {
		go func() { results <- q.Put(ctx, delivery.Entry{Destination: "d", Record: typical(n)}) }()
		eventually(t, "it's pending", func() bool { n, _ := q.pendingPuts(); return n == 1 })
	}
	put(1)
	cancel()
	if err := <-results; !errors.Is(err, context.Canceled) { // though the queue is stalled
		t.Errorf("Put: %v, want %v", err, context.Canceled)
	}
	resume()

	resume = stall(t, q)
	ctx, cancel = context.WithCancel(t.Context())
	put(2)
	began, over := make(chan struct{}), make(chan struct{})
	go q.operate(func(*txn) error { // in one transaction with the put, after it
		began <- struct{}{}
		<-over
		return nil
	})
	eventually(t, "both are pending", func() bool { q.mu.Lock(); defer q.mu.Unlock(); return len(q.pending) == 2 })
	resume()
	<-began
	cancel()
	select {
	case err := <-results:
		t.Errorf("Put returned %v before it was known what would happen", err)
	default:
	}
	close(over)
	if err := <-results; err != nil {
		t.Errorf("Put: %v, though it was being written", err)
	}
	items, err := q.Take(t.Context(), "d", 10)
	if err != nil || len(items) != 1 || number(items[0].Record) != 2 {
		t.Errorf("took %v (%v), want what was put, and not what was given up", items, err)
	}
}

// TestPost posts what is taken, and what isn't.
func TestPost(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	soon, results := time.Now().Add(time.Hour), make(chan error)
	post := func(deadline time.Time, destination string, n int) delivery.Posted {
		return q.Post(deadline, func(err error) { results <- err }, delivery.Entry{Destination: destination, Record: typical(n)})
	}
	resume := stall(t, q)
	tooLate := post(soon, "d", 1)
	post(soon, "d", 2).GiveUp()
	if err := <-results; !errors.Is(err, context.DeadlineExceeded) { // though the queue is stalled
		t.Errorf("Post: %v, want %v", err, context.DeadlineExceeded)
	}
	post(time.Now(), "d", 3)
	post(soon, "", 4)
	if err := <-results; err == nil {
		t.Error("a destination without a name was taken")
	}
	resume()
	first, second := <-results, <-results
	if !slices.Contains([]error{first, second}, nil) || !slices.Contains([]error{first, second}, context.DeadlineExceeded) {
		t.Errorf("Post: %v and %v, want one that is taken and one that is too late", first, second)
	}
	tooLate.Hurry()
	tooLate.GiveUp()
	if items, err := q.Take(t.Context(), "d", 10); err != nil || len(items) != 1 || number(items[0].Record) != 1 {
		t.Errorf("took %v (%v), want what was put, and not what was given up", items, err)
	}

	// Where there is no room in memory, somebody waits for it.
	resume = stall(t, q)
	if !q.room.TryAcquire(maxPending) {
		t.Fatal("memory is in use")
	}
	post(soon, "d", 5)
	post(time.Now(), "d", 6)
	if err := <-results; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Post: %v, want %v", err, context.DeadlineExceeded)
	}
	q.room.Release(maxPending)
	resume()
	if err := <-results; err != nil {
		t.Errorf("Post: %v", err)
	}

	q.Close()
	post(soon, "d", 7)
	if err := <-results; !errors.Is(err, delivery.ErrClosed) {
		t.Errorf("Post: %v, want %v", err, delivery.ErrClosed)
	}
	select {
	case err := <-results:
		t.Errorf("it was done twice: %v", err)
	default:
	}
}

// TestPendingIsBounded has more to write than may wait in memory.
func TestPendingIsBounded(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	resume := stall(t, q)
	ctx, cancel := context.WithCancel(t.Context())
	r := typical(0)
	r.Properties = append(r.Properties, tagging.Property{Name: "more", Value: strings.Repeat("x", 64<<10)})
	b, err := r.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	const callers = 400
	fit := maxPending / (len(b) + entryOverhead)
	results := make(chan error, callers)
	for range callers {
		go func() { results <- q.Put(ctx, delivery.Entry{Destination: "d", Record: r}) }()
	}
	eventually(t, "memory is used up", func() bool { n, _ := q.pendingPuts(); return n == fit })
	cancel()
	for range callers {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("Put: %v, want %v", err, context.Canceled)
		}
	}
	if n, bytes := q.pendingPuts(); n != fit || bytes > maxPending {
		t.Errorf("%d puts with %d bytes are pending", n, bytes)
	}
	resume()
	// A single call may bring more than that.
	if err := q.Put(t.Context(), slices.Repeat([]delivery.Entry{{Destination: "d", Record: r}}, callers)...); err != nil {
		t.Errorf("Put: %v", err)
	}
	if n := q.waiting("d"); n != callers {
		t.Errorf("%d records wait, want %d", n, callers)
	}
}

func TestPutRefuses(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	for _, id := range []string{"", strings.Repeat("x", maxDestination+1)} {
		err := q.Put(t.Context(), delivery.Entry{Destination: "good", Record: typical(1)}, delivery.Entry{Destination: id, Record: typical(1)})
		if err == nil {
			t.Errorf("a destination of %d bytes was taken", len(id))
		}
	}
	if n := q.waiting("good"); n != 0 {
		t.Errorf("%d records wait", n)
	}
}

// TestForgottenDestinations uses many destinations, one after the other: what
// is known of them doesn't add up.
func TestForgottenDestinations(t *testing.T) {
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	for n := range 30 {
		id := strings.Repeat("d", n+1)
		prefill(t, q, id, 2)
		drain(t, q, id, 2)
		eventually(t, "it's delivered", func() bool { return q.waiting(id) == 0 })
	}
	q.mu.Lock()
	known := len(q.destinations)
	q.mu.Unlock()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if known > 2 || len(q.byNumber) > 2 {
		t.Errorf("%d destinations are known, %d have numbers", known, len(q.byNumber))
	}
	q = mustOpen(t, q.path)
	if n := len(q.destinations); n > 2 {
		t.Errorf("%d destinations are stored", n)
	}
}

// TestBytesPerRecord bounds what a record takes up.
func TestBytesPerRecord(t *testing.T) {
	const n = 100_000
	q := mustOpen(t, filepath.Join(t.TempDir(), "queue.db"))
	content := prefill(t, q, "d", n)
	var used int64
	if err := q.operate(func(tx *txn) error { used = tx.q.used; return nil }); err != nil {
		t.Fatal(err)
	}
	got, want := float64(used)/n, 1.3*float64(content)/n+64
	t.Logf("%.1f bytes, of which %.1f are content", got, float64(content)/n)
	if got > want {
		t.Errorf("a record takes up %.1f bytes, want %.1f at most", got, want)
	}
}

// TestMillion has a backlog of a million records: it must cost neither time
// nor memory.
func TestMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	const n = 1_000_000
	path := filepath.Join(t.TempDir(), "queue.db")
	reopen := func() *openQueue {
		q, err := open(path, defaultMaxSize, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	median := func(q *openQueue) time.Duration {
		took := make([]time.Duration, 101)
		for i := range took {
			began := time.Now()
			prefill(t, q, "e", 1)
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	q := reopen()
	empty := median(q)
	prefill(t, q, "d", n)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = nil

	opening := time.Hour
	for range 3 {
		began := time.Now()
		q := reopen()
		opening = min(opening, time.Since(began))
		q.Close()
	}
	before := heap()
	q = reopen()
	defer q.Close()
	items, err := q.Take(t.Context(), "d", 1000)
	if err != nil {
		t.Fatal(err)
	}
	settle(t, q, delivery.Settlement{Outcome: delivery.Retry, RetryAt: time.Now().Add(time.Hour)}, items...)
	items = nil
	full := median(q)
	if waiting := q.waiting("d"); waiting != n {
		t.Errorf("%d records wait, want %d", waiting, n)
	}
	grown := int64(heap()) - int64(before)
	t.Logf("opening takes %v; Put takes %v, and %v without a backlog; %d bytes of memory", opening, full, empty, grown)
	if opening > 100*time.Millisecond {
		t.Errorf("opening takes %v", opening)
	}
	if full > 5*empty+5*time.Millisecond {
		t.Errorf("Put takes %v, but %v without a backlog", full, empty)
	}
	if grown > 1<<20 {
		t.Errorf("it takes %d bytes of memory", grown)
	}
}
