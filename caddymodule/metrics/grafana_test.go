package metrics

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql/parser"
)

// metricLabels returns our metrics, with the labels of each as Prometheus has
// them: those of the scrape among them.
func metricLabels(t *testing.T) map[string][]string {
	t.Helper()
	found := make(map[string][]string)
	descriptions := make(chan *prometheus.Desc)
	go func() {
		defer close(descriptions)
		for _, c := range collectors {
			c.Describe(descriptions)
		}
	}()
	form := regexp.MustCompile(`fqName: "(\w+)", .*variableLabels: \{([\w,]*)\}`)
	for d := range descriptions {
		m := form.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("what is %s?", d)
		}
		labels := []string{"instance", "job"}
		if m[2] != "" {
			labels = append(labels, strings.Split(m[2], ",")...)
		}
		if strings.HasSuffix(m[1], "_duration_seconds") {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				found[m[1]+suffix] = append(labels, "le")
			}
		} else {
			found[m[1]] = labels
		}
	}
	return found
}

// checkQuery fails the test unless a query asks for our metrics as they are.
// It returns the metrics, and the labels of the result.
func checkQuery(t *testing.T, query string, known map[string][]string) (metrics, labels []string) {
	t.Helper()
	query = strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h").Replace(query)
	parsed, err := parser.ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %v", query, err)
		return nil, nil
	}
	grouped := false
	parser.Inspect(parsed, func(node parser.Node, path []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			of, ok := known[node.Name]
			if !ok {
				t.Errorf("%s: there is no metric %s", query, node.Name)
			}
			metrics = append(metrics, node.Name)
			if !grouped {
				labels = of
			}
			for _, m := range node.LabelMatchers {
				if m.Name != "__name__" && !slices.Contains(of, m.Name) {
					t.Errorf("%s: %s has no label %s", query, node.Name, m.Name)
				}
			}
			counter := strings.HasSuffix(node.Name, "_total") || slices.Contains(of, "le")
			rate := slices.ContainsFunc(path, func(n parser.Node) bool {
				call, ok := n.(*parser.Call)
				return ok && (call.Func.Name == "rate" || call.Func.Name == "increase")
			})
			if counter != rate {
				t.Errorf("%s: rate and increase are for counters, and %s is a counter: %t", query, node.Name, counter)
			}
		case *parser.AggregateExpr:
			if !grouped {
				grouped, labels = true, node.Grouping
			}
			parser.Inspect(node.Expr, func(below parser.Node, _ []parser.Node) error {
				if s, ok := below.(*parser.VectorSelector); ok {
					for _, label := range node.Grouping {
						if !slices.Contains(known[s.Name], label) {
							t.Errorf("%s: %s has no label %s", query, s.Name, label)
						}
					}
				}
				return nil
			})
		}
		return nil
	})
	return metrics, labels
}

type grafanaDashboard struct {
	UID        string
	Templating struct {
		List []struct {
			Name, Type, Definition string
		}
	}
	Panels []struct {
		ID                int
		Type, Title       string
		Datasource        struct{ Type, UID string }
		GridPos           struct{ H, W, X, Y int }
		FieldConfig       struct{ Defaults struct{ Unit string } }
		Targets           []struct{ Expr, LegendFormat, RefID string }
		Description, Kind string
	}
}

func readDashboard(t *testing.T) (d grafanaDashboard) {
	t.Helper()
	data, err := os.ReadFile("../../docs/grafana/dashboard.json")
	if err == nil {
		err = json.Unmarshal(data, &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDashboard: its queries are right, and no metric is missing.
func TestDashboard(t *testing.T) {
	known := metricLabels(t)
	dashboard := readDashboard(t)
	unseen := maps.Clone(known)
	see := func(metrics []string) {
		for _, metric := range metrics {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if name, ok := strings.CutSuffix(metric, suffix); ok {
					delete(unseen, name+"_bucket")
					delete(unseen, name+"_sum")
					delete(unseen, name+"_count")
				}
			}
			delete(unseen, metric)
		}
	}
	legend := regexp.MustCompile(`\{\{(\w+)\}\}`)
	taken := make(map[[2]int]string)
	ids := make(map[int]bool)
	for _, panel := range dashboard.Panels {
		if ids[panel.ID] {
			t.Errorf("two panels have id %d", panel.ID)
		}
		ids[panel.ID] = true
		for x := range panel.GridPos.W {
			for y := range panel.GridPos.H {
				at := [2]int{panel.GridPos.X + x, panel.GridPos.Y + y}
				if taken[at] != "" || at[0] >= 24 {
					t.Errorf("%q lies on %q, or outside", panel.Title, taken[at])
				}
				taken[at] = panel.Title
			}
		}
		if panel.Type == "row" {
			continue
		}
		if panel.Datasource.UID != "${datasource}" || panel.FieldConfig.Defaults.Unit == "" || len(panel.Targets) == 0 {
			t.Errorf("%q lacks its datasource, unit or queries", panel.Title)
		}
		for _, target := range panel.Targets {
			metrics, labels := checkQuery(t, target.Expr, known)
			see(metrics)
			for _, m := range legend.FindAllStringSubmatch(target.LegendFormat, -1) {
				if !slices.Contains(labels, m[1]) {
					t.Errorf("%q: the legend %s has a label that the query's result hasn't", panel.Title, target.LegendFormat)
				}
			}
		}
	}
	if len(unseen) > 0 {
		t.Errorf("missing: %v", slices.Sorted(maps.Keys(unseen)))
	}
	values := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`)
	for _, variable := range dashboard.Templating.List {
		if variable.Type == "datasource" {
			continue
		}
		m := values.FindStringSubmatch(variable.Definition)
		if m == nil || !slices.Contains(known[m[1]], m[2]) || m[2] != variable.Name {
			t.Errorf("the variable %s is %s", variable.Name, variable.Definition)
		}
	}
}

// TestAlerts: their queries are right, and what they say can be shown.
func TestAlerts(t *testing.T) {
	data, err := os.ReadFile("../../docs/grafana/alerts.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		APIVersion int
		Groups     []struct {
			Name, Folder, Interval string
			Rules                  []struct {
				UID, Title, Condition, For, NoDataState, DashboardUID string
				PanelID                                               int
				Annotations                                           map[string]string
				Data                                                  []struct {
					RefID, DatasourceUID string
					Model                struct{ RefID, Expr, Expression, Type string }
				}
			}
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	known := metricLabels(t)
	dashboard := readDashboard(t)
	watched := make(map[string]bool)
	uids := make(map[string]bool)
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			if rule.UID == "" || len(rule.UID) > 40 || uids[rule.UID] {
				t.Errorf("%q: an id is 1 to 40 characters, and unique", rule.Title)
			}
			uids[rule.UID] = true
			var labels []string
			condition := false
			for _, query := range rule.Data {
				if query.RefID != query.Model.RefID {
					t.Errorf("%q: %s is %s", rule.Title, query.RefID, query.Model.RefID)
				}
				if query.DatasourceUID == "__expr__" {
					condition = condition || query.RefID == rule.Condition && query.Model.Expression == rule.Data[0].RefID
					continue
				}
				var metrics []string
				metrics, labels = checkQuery(t, query.Model.Expr, known)
				for _, metric := range metrics {
					watched[strings.TrimPrefix(metric, prefix)] = true
				}
			}
			if !condition {
				t.Errorf("%q: its condition is nothing of the query", rule.Title)
			}
			shown := make(map[string]string)
			for _, label := range labels {
				shown[label] = "some"
			}
			for name, annotation := range rule.Annotations {
				parsed, err := template.New(name).Option("missingkey=error").Parse(annotation)
				if err == nil {
					err = parsed.Execute(new(strings.Builder), map[string]any{"Labels": shown})
				}
				if err != nil || strings.Contains(annotation, "$") { // Grafana puts variables of its own environment there
					t.Errorf("%q: %s %q: %v", rule.Title, name, annotation, err)
				}
			}
			panel := false
			for _, p := range dashboard.Panels {
				panel = panel || p.ID == rule.PanelID && p.Type != "row"
			}
			if rule.DashboardUID != dashboard.UID || !panel {
				t.Errorf("%q: it points to panel %d of %q", rule.Title, rule.PanelID, rule.DashboardUID)
			}
		}
	}
	for _, metric := range []string{"records_dropped_total", "queue_oldest_seconds", "dead_letters", "queue_up", "trackers_disabled", "cookie_key_missing"} {
		if !watched[metric] {
			t.Errorf("nobody watches %s", metric)
		}
	}
}
