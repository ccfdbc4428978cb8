package handler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
)

// An operator reads at once that hits are dropped, in the end how many, and
// never a line for each.
func TestDropsAreLoggedSeldomButAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := zapobserver.New(zap.ErrorLevel)
		var drops dropLog
		hits := func() (sum int64) {
			for _, line := range logs.All() {
				sum += line.ContextMap()["hits"].(int64)
			}
			return sum
		}
		drops.log(zap.New(core), "full", errors.New("full"))
		if logs.Len() != 1 {
			t.Error("the first isn't logged at once")
		}
		for range 5000 {
			drops.log(zap.New(core), "full", errors.New("full"))
		}
		time.Sleep(dropLogInterval + time.Second) // synctest's clock
		if logs.Len() != 2 || hits() != 5001 {
			t.Errorf("%d lines tell of %d hits", logs.Len(), hits())
		}
		time.Sleep(2 * dropLogInterval)
		drops.log(zap.New(core), "full", errors.New("full"))
		if logs.Len() != 3 {
			t.Error("the next one isn't logged at once")
		}
		time.Sleep(2 * dropLogInterval)
	})
}

// TestDropReasons: each is a series from the start, so that an alert sees the
// first record that is dropped.
func TestDropReasons(t *testing.T) {
	for _, err := range []error{
		fmt.Errorf("%w: it is being opened", delivery.ErrUnavailable), delivery.ErrClosed, delivery.ErrFull,
		fmt.Errorf("put: %w", context.DeadlineExceeded), errors.New("disk on fire"),
	} {
		if reason := dropReason(err); !slices.Contains(metrics.DropReasons, reason) {
			t.Errorf("%v is %q", err, reason)
		}
	}
}
