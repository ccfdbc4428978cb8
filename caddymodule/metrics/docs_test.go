package metrics

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentedMetrics: docs/operations.md names no metric that there isn't,
// and its table of metrics has them all.
func TestDocumentedMetrics(t *testing.T) {
	operations, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(operations)
	known := make(map[string]bool)
	for name := range metricLabels(t) {
		name = strings.TrimPrefix(name, prefix)
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
		known[name] = true
	}
	for _, m := range regexp.MustCompile(prefix+`(\w+)`).FindAllStringSubmatch(text, -1) {
		if !known[m[1]] {
			t.Errorf("the documentation has %s, which there isn't", m[0])
		}
	}
	_, table, found := strings.Cut(text, "| metric |")
	if !found {
		t.Fatal("the documentation has no table of metrics")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	for name := range known {
		if !strings.Contains(table, "`"+name) {
			t.Errorf("the documentation lacks %s", name)
		}
	}
}
