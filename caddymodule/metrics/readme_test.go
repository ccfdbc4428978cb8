package metrics

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeMetrics: it names no metric that there isn't, and its table of
// metrics has them all.
func TestReadmeMetrics(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(readme)
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
			t.Errorf("the README has %s, which there isn't", m[0])
		}
	}
	_, table, found := strings.Cut(text, "| metric |")
	if !found {
		t.Skip("the README has no table of metrics")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	for name := range known {
		if !strings.Contains(table, "`"+name) {
			t.Errorf("the README lacks %s", name)
		}
	}
}
