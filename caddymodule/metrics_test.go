package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// TestDropReasons: each is a series from the start, so that an alert sees the
// first record that is dropped.
func TestDropReasons(t *testing.T) {
	for _, err := range []error{
		errUnavailable{errOpening}, delivery.ErrClosed, delivery.ErrFull,
		fmt.Errorf("put: %w", context.DeadlineExceeded), errors.New("disk on fire"),
	} {
		if reason := dropReason(err); !slices.Contains(dropReasons, reason) {
			t.Errorf("%v is %q", err, reason)
		}
	}
}

// TestDisabledTrackers: a tracker is counted once, however many sites have it,
// and not at all if one of those that share its id has a key.
func TestDisabledTrackers(t *testing.T) {
	route := func(path, tracker string) string {
		return fmt.Sprintf("route %s {\n\ttagged_urls {\n\t\ttracker kissmetrics %s\n\t}\n}\n", path, tracker)
	}
	const empty = "{env.TAGGED_URLS_TEST_UNSET}"
	l := startLive(t, "", route("/a", empty)+route("/b", empty)+route("/c", "KEY"))
	eventually(t, "the trackers", func() bool { return len(currentStatus().destinations) == 2 })
	if n := currentStatus().disabled; n != 1 {
		t.Errorf("%d trackers are disabled", n)
	}
	const named = " {\n\t\t\tid shared\n\t\t}"
	l.load("", route("/a", empty+named)+route("/b", "KEY"+named)+route("/c", empty+named))
	eventually(t, "the trackers", func() bool { return len(currentStatus().destinations) == 1 })
	if n := currentStatus().disabled; n != 0 {
		t.Errorf("%d trackers are disabled", n)
	}
}
