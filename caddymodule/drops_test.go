package caddymodule

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"
)

func TestAMistakeIsAnError(t *testing.T) {
	err := guarded(func() error { panic("john.smith") })
	if err == nil || strings.Contains(err.Error(), "john.smith") {
		t.Errorf("a panic became %v", err)
	}
	if err := guarded(func() error { return nil }); err != nil {
		t.Error(err)
	}
}

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
