package delivery

import (
	"testing"
	"time"
)

func TestAges(t *testing.T) {
	const day = 24 * time.Hour
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	// The clock, as the engine sees it: what elapses, and by how much it is
	// set.
	type step struct{ elapses, set time.Duration }
	tests := []struct {
		name   string
		steps  []step
		queued time.Time
		age    time.Duration
	}{
		{"just so", []step{{3 * day, 0}}, start.Add(day), 2 * day},
		{"before we began", []step{{3 * day, 0}}, start.Add(-5 * day), 8 * day},
		{"a clock that was never set", []step{{day, 0}}, time.Unix(1000, 0), day},
		{"a clock far ahead", []step{{day, 0}}, start.AddDate(50, 0, 0), day},
		{"a clock a little ahead", []step{{0, 0}}, start.Add(30 * time.Second), -30 * time.Second},
		{"set a little", []step{{day, 10 * time.Second}, {day, -50 * time.Second}}, start, 2*day - 40*time.Second},
		{"set ahead since", []step{{day, 300 * day}, {day, 0}}, start, day},
		{"set ahead before", []step{{day, 300 * day}, {2 * day, 0}}, start.Add(302 * day), day},
		{"set back since", []step{{day, -300 * day}, {day, 0}}, start, day},
		{"set back, and queued after that", []step{{day, -300 * day}, {2 * day, 0}}, start.Add(-298 * day), day},
		{"set to and fro", []step{{day, 300 * day}, {day, -300 * day}, {day, 0}}, start.Add(day), day},
		{"asleep", []step{{day, 8 * day}, {time.Hour, 0}}, start, time.Hour},
	}
	for _, test := range tests {
		a := &ages{since: start, seen: start}
		now := start
		for _, s := range test.steps {
			now = now.Add(s.elapses + s.set)
			a.noted(now, s.elapses, s.elapses+s.set)
		}
		if age := now.Sub(a.from(test.queued, now)); age != test.age {
			t.Errorf("%s: age %v, want %v", test.name, age, test.age)
		}
	}
}

// A clock that jumps doesn't delete dead letters: how old they are isn't known.
func TestAgesRun(t *testing.T) {
	a := newAges()
	if !a.runs(time.Hour) {
		t.Error("a clock that runs")
	}
	a.noted(a.seen, time.Second, 40*24*time.Hour)
	if a.runs(time.Hour) {
		t.Error("a clock that has just jumped")
	}
	a.since = a.since.Add(-2 * time.Hour)
	if !a.runs(time.Hour) {
		t.Error("a clock that jumped two hours ago")
	}
}
