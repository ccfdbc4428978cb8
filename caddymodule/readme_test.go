package caddymodule

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
)

// readme returns the README with the documentation that goes on from it, and
// their blocks of code.
func readme(t *testing.T) (text string, blocks []string) {
	t.Helper()
	for _, file := range []string{"README", "docs/reference", "docs/privacy", "docs/operations", "docs/reliability"} {
		data, err := os.ReadFile("../" + file + ".md")
		if err != nil {
			t.Fatal(err)
		}
		text += string(data) + "\n"
	}
	inside := false
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "```"):
			if inside = !inside; inside {
				blocks = append(blocks, "")
			}
		case inside:
			blocks[len(blocks)-1] += line
		}
	}
	return text, blocks
}

// owner is what an option belongs to.
type owner string

const (
	ofApp     owner = "global option"
	ofHandler owner = "directive"
	ofCookie  owner = "cookie"
	ofEvent   owner = "event"

	ofScanners owner = "scanners"
	// Others are `queue disk`, `tracker log` ….
)

// syntax is an option as the README shows it.
type syntax struct {
	form     string // what stands after its name
	standard string // its default
}

// readmeSyntax returns the options of the README's syntax.
func readmeSyntax(t *testing.T) map[owner]map[string]syntax {
	t.Helper()
	found := make(map[owner]map[string]syntax)
	_, blocks := readme(t)
	for _, block := range blocks {
		if strings.Contains(block, "<duration>") {
			parseSyntax(t, block, found)
		}
	}
	return found
}

// parseSyntax adds the options of a block of syntax.
func parseSyntax(t *testing.T, block string, found map[owner]map[string]syntax) {
	t.Helper()
	add := func(of owner, option string, s syntax) {
		if found[of] == nil {
			found[of] = make(map[string]syntax)
		}
		if _, twice := found[of][option]; twice {
			t.Errorf("%s of %s is there twice", option, of)
		}
		found[of][option] = s
	}
	within := []owner{""}
	for line := range strings.Lines(block) {
		code, comment, _ := strings.Cut(line, "#")
		code = strings.TrimSpace(code)
		_, standard, _ := strings.Cut(strings.TrimSpace(comment), "default: ")
		inside := within[len(within)-1]
		opens := strings.HasSuffix(code, "{")
		code = strings.TrimSpace(strings.TrimSuffix(code, "{"))
		name, form, _ := strings.Cut(code, " ")
		form = strings.TrimSpace(form)
		var next owner
		switch {
		case code == "}":
			within = within[:len(within)-1]
			continue
		case name == "queue" || name == "tracker" && !strings.HasPrefix(form, "<"):
			next = owner(name + " " + strings.Fields(form)[0])
			found[next] = make(map[string]syntax)
			if name == "queue" && inside == ofApp && found[inside][name] == (syntax{}) {
				add(inside, name, syntax{form, standard})
			}
		case name == "tagged_urls":
			if next = ofHandler; inside == ofApp {
				next = "" // the global option itself
			}
			if next == "" {
				within = append(within, ofApp)
				continue
			}
		case len(within) == 1: // { or a site's address
			if next = "site"; code == "" {
				next = ofApp
			}
		case inside == "" || code == "":
		case strings.Contains(name, ","): // several, as above
			for option := range strings.SplitSeq(code, ", ") {
				add(inside, option, found["tracker kissmetrics"][option])
			}
		default:
			add(inside, name, syntax{form, standard})
			next = owner(name)
		}
		if opens {
			within = append(within, next)
		}
	}
}

// codeOptions returns the words that a method, or all functions of that name
// in a file, tells apart in a switch.
func codeOptions(t *testing.T, pattern, receiver, function string) (options []string) {
	t.Helper()
	for _, f := range codeFunctions(t, pattern, receiver, function) {
		ast.Inspect(f, func(node ast.Node) bool {
			if clause, ok := node.(*ast.CaseClause); ok {
				for _, word := range clause.List {
					if literal, ok := word.(*ast.BasicLit); ok {
						option, _ := strconv.Unquote(literal.Value)
						options = append(options, option)
					}
				}
			}
			return true
		})
	}
	return options
}

// trackerOptions returns a tracker's options, as it lists them when it is given
// one that it doesn't have.
func trackerOptions(t *testing.T, module caddy.ModuleInfo) []string {
	t.Helper()
	input := module.ID.Name() + " {\nno_option\n}"
	if module.ID.Name() == "webhook" {
		input = "webhook https://example.com/x {\nno_option\n}"
	}
	err := module.New().(caddyfile.Unmarshaler).UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
	list := regexp.MustCompile(`has no option "no_option": it has (.+), at Testfile:2`).FindStringSubmatch(fmt.Sprint(err))
	if list == nil {
		t.Fatalf("%s: %v", module.ID, err)
	}
	return strings.Split(list[1], ", ")
}

// codeFunctions returns functions of that name, or methods if there is a
// receiver.
func codeFunctions(t *testing.T, pattern, receiver, function string) (found []*ast.FuncDecl) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, declared := range parsed.Decls {
			f, ok := declared.(*ast.FuncDecl)
			if !ok || f.Name.Name != function || (f.Recv == nil) != (receiver == "") ||
				f.Recv != nil && f.Recv.List[0].Type.(*ast.StarExpr).X.(*ast.Ident).Name != receiver {
				continue
			}
			found = append(found, f)
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s has no %s", pattern, function)
	}
	return found
}

// docSyntax returns the syntax in the comment over UnmarshalCaddyfile.
func docSyntax(t *testing.T, pattern, receiver string) (syntax string) {
	t.Helper()
	for _, f := range codeFunctions(t, pattern, receiver, "UnmarshalCaddyfile") {
		for line := range strings.Lines(f.Doc.Text()) {
			if strings.HasPrefix(line, "\t") {
				syntax += line
			}
		}
	}
	return syntax
}

// TestReadmeHasAllOptions, and only those that there are.
func TestReadmeHasAllOptions(t *testing.T) {
	comments := make(map[owner]map[string]syntax)
	parseSyntax(t, "{\n"+docSyntax(t, "app/caddyfile.go", "App")+"}\n", comments)
	parseSyntax(t, "site {\n"+docSyntax(t, "handler/caddyfile.go", "Handler")+"}\n", comments)
	code := map[owner][]string{
		ofApp:     codeOptions(t, "app/caddyfile.go", "App", "UnmarshalCaddyfile"),
		ofHandler: codeOptions(t, "handler/caddyfile.go", "Handler", "unmarshalOption"),
		ofCookie:  codeOptions(t, "handler/caddyfile.go", "Cookie", "unmarshal"),
		ofEvent:   codeOptions(t, "handler/caddyfile.go", "Event", "unmarshal"),

		ofScanners: codeOptions(t, "handler/scanneroptions.go", "Scanners", "unmarshalOption"),
	}
	shown := readmeSyntax(t)
	for _, module := range slices.Concat(caddy.GetModules("tagged_urls.queues"), caddy.GetModules("tagged_urls.trackers")) {
		kind := strings.TrimSuffix(strings.TrimPrefix(module.ID.Namespace(), "tagged_urls."), "s")
		name := module.ID.Name()
		files := kind + "s/" + name + "/*.go"
		if files, _ := filepath.Glob(files); len(files) == 0 {
			continue // a test's
		}
		receiver := reflect.TypeOf(module.New()).Elem().Name()
		parseSyntax(t, docSyntax(t, files, receiver), comments)
		if kind == "tracker" {
			code[owner(kind+" "+name)] = trackerOptions(t, module)
			continue
		}
		code[owner(kind+" "+name)] = codeOptions(t, files, receiver, "UnmarshalCaddyfile")
	}
	for of, options := range code {
		slices.Sort(options)
		if got := slices.Sorted(maps.Keys(shown[of])); !slices.Equal(got, options) {
			t.Errorf("%s: the README has %q, the code %q", of, got, options)
		}
		for option, s := range comments[of] {
			if form := strings.ReplaceAll(s.form, "{ … }", "{…}"); form != shown[of][option].form && option != "queue" {
				t.Errorf("%s: the README has %s %s, the code's comment %s", of, option, shown[of][option].form, form)
			}
		}
		if len(comments[of]) != len(options) {
			t.Errorf("%s: the code's comment has %q, the code %q", of, slices.Sorted(maps.Keys(comments[of])), options)
		}
	}
	table := regexp.MustCompile("(?m)^\\| `(\\w+)[^|]*` \\| ")
	text, _ := readme(t)
	_, text, _ = strings.Cut(text, "| option |")
	text, _, _ = strings.Cut(text, "\n\n")
	explained := make(map[string]bool)
	for _, m := range table.FindAllStringSubmatch(text, -1) {
		explained[m[1]] = true
		known := false
		for _, options := range code {
			known = known || slices.Contains(options, m[1])
		}
		if !known {
			t.Errorf("the README explains %s, which is no option", m[1])
		}
	}
	for _, option := range slices.Concat(code[ofApp], code[ofHandler]) {
		if !explained[option] {
			t.Errorf("the README doesn't explain %s", option)
		}
	}
}

// TestReadmeExamples loads the README's configurations.
func TestReadmeExamples(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	t.Setenv("KISSMETRICS_API_KEY", "KEY")
	_, blocks := readme(t)
	examples := 0
	for _, block := range blocks {
		if !strings.Contains(block, " {\n") || strings.ContainsAny(block, "<…$") || strings.Contains(block, "queue nats") {
			continue // no Caddyfile, a syntax, or for another build
		}
		examples++
		adapted, err := livetest.Adapt(t, []byte(strings.ReplaceAll(block, "/var/log/caddy", t.TempDir())))
		if err != nil {
			t.Errorf("%v\n%s", err, block)
			continue
		}
		validate(t, block, adapted)
	}
	if examples < 3 {
		t.Errorf("found only %d", examples)
	}
}
