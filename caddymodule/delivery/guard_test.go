package delivery

import (
	"strings"
	"testing"
)

func TestAMistakeIsAnError(t *testing.T) {
	err := Guard(func() error { panic("john.smith") })
	if err == nil || strings.Contains(err.Error(), "john.smith") {
		t.Errorf("a panic became %v", err)
	}
	if err := Guard(func() error { return nil }); err != nil {
		t.Error(err)
	}
}
