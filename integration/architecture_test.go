package integration

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// declared are the names that the packages declare, such as "Lease",
// "Lease.Post", "queuepool.Lease" and "queuepool.Lease.Post".
func declared(t *testing.T, folders []string) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	for _, folder := range folders {
		files, err := filepath.Glob(filepath.Join(harness.Root(), folder, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		add := func(name string) { names[name], names[path.Base(folder)+"."+name] = true, true }
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range parsed.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					name := d.Name.Name
					if d.Recv != nil {
						receiver := d.Recv.List[0].Type
						if pointer, ok := receiver.(*ast.StarExpr); ok {
							receiver = pointer.X
						}
						if named, ok := receiver.(*ast.Ident); ok {
							name = named.Name + "." + name
						}
					}
					add(name)
				case *ast.GenDecl:
					for _, s := range d.Specs {
						switch s := s.(type) {
						case *ast.TypeSpec:
							add(s.Name.Name)
						case *ast.ValueSpec:
							for _, n := range s.Names {
								add(n.Name)
							}
						}
					}
				}
			}
		}
	}
	return names
}

// TestArchitectureIsTheCodes: the names, folders and arrows of
// docs/architecture.md are the code's.
func TestArchitectureIsTheCodes(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	_, diagram, _ := strings.Cut(text, "```mermaid\n")
	diagram, prose, _ := strings.Cut(diagram, "```\n")

	names := declared(t, floors)
	isName := regexp.MustCompile(`^\w+\.\w+(\.\w+)?$`)
	seen := 0
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(prose, -1) {
		name := strings.TrimSuffix(m[1], "/")
		switch {
		case isName.MatchString(name):
			if seen++; !names[name] {
				t.Errorf("docs/architecture.md names %s, which the code doesn't declare", name)
			}
		case name != m[1] || strings.Contains(name, "/"):
			seen++
			exists := func(folder string) bool {
				_, err := os.Stat(filepath.Join(harness.Root(), folder, name))
				return err == nil
			}
			if !slices.ContainsFunc([]string{"", "caddymodule", "caddymodule/queues"}, exists) {
				t.Errorf("docs/architecture.md names %s, which isn't there", m[1])
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d names were found", seen)
	}

	for _, folder := range floors {
		top, _, _ := strings.Cut(strings.TrimPrefix(folder, "caddymodule/"), "/")
		if top != "" && top != "caddymodule" && !strings.Contains(prose, top+"/`") {
			t.Errorf("docs/architecture.md doesn't say what %s is for", folder)
		}
	}

	imports := make(map[[2]string]bool)
	out, ok := command(t, "go", "list", "-f", `{{$p := .ImportPath}}{{range .Imports}}{{$p}} {{.}}{{"\n"}}{{end}}`, "./...")
	if !ok {
		t.Fatal(out)
	}
	for line := range strings.Lines(out) {
		from, to, _ := strings.Cut(strings.TrimSpace(line), " ")
		imports[[2]string{path.Base(from), path.Base(to)}] = true
	}
	arrows, label := 0, regexp.MustCompile(`\[.*?\]`)
	groups := map[string][]string{"cmd": {"caddy", "caddy-nats"}, "all": {"caddymodule"}, "queues": {"disk", "nats"}, "trackers": {"webhook", "log"}}
	packages := func(nodes string) (all []string) {
		for node := range strings.SplitSeq(label.ReplaceAllString(nodes, ""), "&") {
			if node = strings.TrimSpace(node); groups[node] != nil {
				all = append(all, groups[node]...)
			} else {
				all = append(all, node)
			}
		}
		return all
	}
	for line := range strings.Lines(diagram) {
		from, to, found := strings.Cut(line, "-->")
		if !found {
			continue
		}
		for _, from := range packages(from) {
			for _, to := range packages(to) {
				if arrows++; !imports[[2]string{from, to}] {
					t.Errorf("docs/architecture.md draws an arrow from %s to %s, which imports nothing of it", from, to)
				}
			}
		}
	}
	if arrows < 25 {
		t.Errorf("only %d arrows were found", arrows)
	}
}
