package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"
)

func TestAMistakeOfOursCostsNoPage(t *testing.T) {
	core, logs := zapobserver.New(zap.ErrorLevel)
	drops = dropLog{}
	before := testutil.ToFloat64(droppedRecords.WithLabelValues("error"))
	known := &hit{setCookie: &http.Cookie{}}
	known.safely(&Handler{log: zap.New(core)}, func() { panic("john.smith") })
	if known.setCookie != nil {
		t.Error("a cookie is set for a hit that is lost")
	}
	if after := testutil.ToFloat64(droppedRecords.WithLabelValues("error")); after != before+1 {
		t.Errorf("%v records counted as dropped", after-before)
	}
	if logs.Len() != 1 || logs.FilterMessageSnippet("dropped").Len() != 1 {
		t.Errorf("logged: %v", logs.All())
	}
	if text := fmt.Sprint(logs.All()[0].ContextMap()); strings.Contains(text, "john.smith") {
		t.Errorf("what the visitor sent is logged: %s", text)
	}
}
