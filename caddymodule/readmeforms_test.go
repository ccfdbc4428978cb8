package caddymodule

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/handler"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/internal/livetest"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/queues/disk"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
	kmtracker "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/kissmetrics"
	logtracker "github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/log"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/mixpanel"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/posthog"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/segment"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers/webhook"
)

// samples stand for the README's variables.
var samples = map[string]string{
	"duration": "5s", "size": "2GiB", "directory": "/nowhere/queue", "key": "0123456789abcdef0123456789abcdef",
	"api_key": "KEY", "token": "TOKEN", "user": "importer", "secret": "SECRET", "id": "1234567",
	"cookie": "agreed", "patterns...": "yes *agreed*", "name": "main", "domain": "example.com", "n": "7",
	"url": "https://example.com/x", "base64": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "module": "log", "args...": "", "words...": "dnt gpc",
	"kinds...": "visits searches", "value": "{path}",
	"keys...": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "browsers": "7", "window": "5m",
	"event": "Decoy", "cidr...": "192.0.2.7 2001:db8::/32",
}

// expand returns what may stand after an option's name by its form.
func expand(t *testing.T, form string) (all []string) {
	t.Helper()
	form = strings.ReplaceAll(form, "{…}", "")
	for alternative := range strings.SplitSeq(form, "|") {
		without := regexp.MustCompile(`\[[^]]*\]`).ReplaceAllString(alternative, "")
		for _, one := range []string{without, strings.NewReplacer("[", "", "]", "").Replace(alternative)} {
			one = regexp.MustCompile(`<[^>]+>`).ReplaceAllStringFunc(one, func(variable string) string {
				sample, ok := samples[strings.Trim(variable, "<>")]
				if !ok {
					t.Errorf("what stands for %s?", variable)
				}
				return sample
			})
			if one = strings.TrimSpace(one); !slices.Contains(all, one) {
				all = append(all, one)
			}
		}
	}
	return all
}

// keyOptions are the options of the trackers' keys.
var keyOptions = map[string]string{
	"kissmetrics": "api_key", "segment": "write_key", "posthog": "project_key", "mixpanel": "project_token",
}

// configWith returns a Caddyfile in which the line stands where it belongs.
func configWith(of owner, line string) string {
	global, site := "", "tagged_urls KEY"
	switch module, _ := strings.CutPrefix(string(of), "tracker "); {
	case of == ofApp:
		global = line
	case of == ofHandler:
		if strings.HasPrefix(line, "identity_plain") {
			line += "\nidentity_key " + samples["keys..."]
		}
		site += " {\n" + line + "\n}"
	case of == ofEvent:
		site += " {\nevent Opened {\n" + line + "\n}\n}"
	case of == ofCookie:
		site += " {\ncookie {\n" + line + "\n}\n}"
	case of == ofScanners:
		site += " {\nscanners mark {\n" + line + "\n}\n}"
	case strings.HasPrefix(string(of), "queue "):
		global = string(of) + " {\n" + line + "\n}"
	case module == "webhook":
		site = "tagged_urls {\ntracker webhook https://example.com/x {\n" + line + "\n}\n}"
	case keyOptions[module] != "" && !strings.HasPrefix(line, keyOptions[module]):
		if strings.HasPrefix(line, "service_account") {
			line += "\nproject_id 1"
		}
		site = "tagged_urls {\ntracker " + module + " KEY {\n" + line + "\n}\n}"
	default:
		site = "tagged_urls {\ntracker " + module + " {\n" + line + "\n}\n}"
	}
	return "{\ntagged_urls {\n" + global + "\n}\n}\nhttp://example.com {\n" + site + "\n}\n"
}

// jsonFields returns the JSON names of a struct's fields.
func jsonFields(of reflect.Type) (names []string) {
	for i := range of.NumField() {
		field := of.Field(i)
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name == "-" {
			continue
		} else if name != "" {
			names = append(names, name)
		} else if field.Anonymous {
			names = append(names, jsonFields(field.Type)...)
		}
	}
	return names
}

// TestReadmeForms: what the README says that can be written is accepted, by
// `caddy adapt` and by loading it; and no field of the JSON form is left that
// one can't write.
func TestReadmeForms(t *testing.T) {
	unset := make(map[string]bool)
	for where, of := range map[string]reflect.Type{
		"tagged_urls": reflect.TypeFor[app.App](), "tagged_urls.queue": reflect.TypeFor[disk.Queue](),
		"handle": reflect.TypeFor[handler.Handler](), "handle.cookie": reflect.TypeFor[handler.Cookie](), "handle.event": reflect.TypeFor[handler.Event](), "handle.consent": reflect.TypeFor[handler.Consent](),
		"handle.scanners": reflect.TypeFor[handler.Scanners](), "handle.scanners.links": reflect.TypeFor[handler.ScannerLimit](),
		"handle.identity_email": reflect.TypeFor[handler.IdentityEmail](), "handle.identity_reject": reflect.TypeFor[handler.IdentityReject](),
		"handle.shared_link":          reflect.TypeFor[handler.SharedLink](),
		"handle.trackers.kissmetrics": reflect.TypeFor[kmtracker.Tracker](), "handle.trackers.webhook": reflect.TypeFor[webhook.Tracker](),
		"handle.trackers.segment": reflect.TypeFor[segment.Tracker](), "handle.trackers.posthog": reflect.TypeFor[posthog.Tracker](),
		"handle.trackers.mixpanel": reflect.TypeFor[mixpanel.Tracker](), "handle.trackers.mixpanel.service_account": reflect.TypeFor[mixpanel.ServiceAccount](),
		"handle.trackers.log": reflect.TypeFor[logtracker.Tracker](),
	} {
		for _, name := range jsonFields(of) {
			unset[where+"."+name] = true
		}
	}
	var seen func(where string, value any)
	seen = func(where string, value any) {
		switch value := value.(type) {
		case map[string]any:
			if value["handler"] == "tagged_urls" {
				where = "handle"
			}
			if tracker, ok := value["tracker"].(string); ok {
				where += "." + tracker
			}
			for name, inner := range value {
				delete(unset, where+"."+name)
				seen(where+"."+name, inner)
			}
		case []any:
			for _, inner := range value {
				seen(where, inner)
			}
		}
	}
	for of, options := range readmeSyntax(t) {
		if _, err := caddy.GetModule("tagged_urls." + strings.Replace(string(of), " ", "s.", 1)); err != nil && strings.Contains(string(of), "queue ") {
			continue // of a build that has it
		}
		for option, s := range options {
			for _, arguments := range expand(t, s.form) {
				if option == "queue" && arguments != "disk" {
					continue
				}
				config := configWith(of, option+" "+arguments)
				adapted, err := livetest.Adapt(t, []byte(config))
				if err != nil {
					t.Errorf("%s: %s %s: %v", of, option, arguments, err)
					continue
				}
				var parsed struct{ Apps map[string]any }
				if err := json.Unmarshal(adapted, &parsed); err != nil {
					t.Fatal(err)
				}
				seen("tagged_urls", parsed.Apps["tagged_urls"])
				seen("http", parsed.Apps["http"])
				validate(t, of, adapted)
			}
		}
	}
	if len(unset) > 0 {
		t.Errorf("the README has no option for %q", slices.Sorted(maps.Keys(unset)))
	}
}

// validate provisions a configuration.
func validate(t *testing.T, what any, adapted []byte) {
	t.Helper()
	config := new(caddy.Config)
	err := json.Unmarshal(adapted, config)
	if err == nil {
		err = caddy.Validate(config)
	}
	if err != nil {
		t.Errorf("%v: %v", what, err)
	}
}

// TestReadmeDefaults: they are those of the code.
func TestReadmeDefaults(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	queue := new(disk.Queue)
	if err := queue.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Rel(filepath.Dir(caddy.AppDataDir()), queue.Key())
	if err != nil {
		t.Fatal(err)
	}
	open, err := queue.Open(zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	stats, err := open.Stats()
	if err != nil {
		t.Fatal(err)
	}
	tracker := new(kmtracker.Tracker)
	if err := tracker.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	endpoint, _ := tracker.Identity()
	others := map[string]string{}
	for name, tracker := range map[string]interface {
		caddy.Provisioner
		delivery.Identifier
	}{"segment": new(segment.Tracker), "posthog": new(posthog.Tracker), "mixpanel": new(mixpanel.Tracker)} {
		if err := tracker.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		others[name], _ = tracker.Identity()
	}
	const (
		off  = "off"
		none = "\x00" // it must be given
		text = "\x01" // a description
	)
	want := map[string]any{
		"queue disk path": path + " beside Caddy's data directory", "queue disk max_size": stats.MaxBytes,
		"global option queue": none, "global option queue_timeout": app.DefaultQueueTimeout, "global option max_age": codeDuration(t, "delivery/engine.go", "DefaultMaxAge"),
		"global option shutdown_drain": app.DefaultShutdownDrain, "global option secret": text,
		"directive tracker": none, "directive strip": "identity", "directive redirect": off, "directive cookie": handler.DefaultCookieName,
		"cookie domain": text, "cookie max_age": time.Duration(handler.MaxCookieAge), "directive alias": "on", "directive once": handler.DefaultOnce,
		"directive consent": text, "directive identity_email": "allow", "directive identity_reject": text,
		"directive landing": text, "directive event": text,
		"directive identity_key": text, "directive identity_plain": "allow", "directive events": text, "directive properties": text,
		"directive shared_link": fmt.Sprintf("%d %dh", handler.DefaultSharedBrowsers, handler.DefaultSharedWindow/time.Hour),
		"directive scanners":    off, "scanners links": "3 10s", "scanners people": "15 10s", "scanners decoy": text, "scanners networks": text,
		"directive skip":              strings.Join(handler.DefaultSkip, " "),
		"tracker kissmetrics api_key": none, "tracker kissmetrics endpoint": endpoint, "tracker kissmetrics timeout": trackers.DefaultTimeout,
		"tracker kissmetrics id": text, "tracker kissmetrics concurrency": delivery.DefaultConcurrency, "tracker kissmetrics client_info": off,
		"tracker webhook secret": text, "tracker webhook batch": new(webhook.Tracker).BatchSize(), "tracker webhook gzip": off,
	}
	for name, endpoint := range others {
		want["tracker "+name+" "+keyOptions[name]], want["tracker "+name+" endpoint"] = none, endpoint
	}
	want["tracker segment send_alias"], want["tracker mixpanel original_id_merge"] = off, off
	want["tracker mixpanel service_account"], want["tracker mixpanel project_id"] = text, text
	for _, option := range []string{"timeout", "id", "concurrency", "client_info"} {
		for _, of := range []string{"webhook", "log", "segment", "posthog", "mixpanel"} {
			want["tracker "+of+" "+option] = want["tracker kissmetrics "+option]
		}
	}
	for of, options := range readmeSyntax(t) {
		for option, s := range options {
			name := fmt.Sprintf("%s %s", of, option)
			first, _, _ := strings.Cut(s.standard, ",")
			switch want := want[name].(type) {
			case time.Duration:
				if d, err := caddy.ParseDuration(first); err != nil || d != want {
					t.Errorf("%s: the README's default is %q, the code's %s", name, s.standard, want)
				}
			case int64:
				if n, err := humanize.ParseBytes(first); err != nil || n != uint64(want) {
					t.Errorf("%s: the README's default is %q, the code's %d", name, s.standard, want)
				}
			case int:
				if first != strconv.Itoa(want) {
					t.Errorf("%s: the README's default is %q, the code's %d", name, s.standard, want)
				}
			case string:
				if want != text && want != none && first != want || (want == none) != (first == "") {
					t.Errorf("%s: the README's default is %q, the code's %q", name, s.standard, want)
				}
			default:
				if s.standard != "" {
					t.Errorf("%s: the README's default is %q; tell this test what the code's is", name, s.standard)
				}
			}
		}
	}
}

// codeDuration returns a constant that is a product.
func codeDuration(t *testing.T, file, name string) time.Duration {
	t.Helper()
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^\s*` + name + `\s*= (.*)$`).FindSubmatch(source)
	if m == nil {
		t.Fatalf("%s has no %s", file, name)
	}
	product := time.Duration(1)
	for factor := range strings.SplitSeq(string(m[1]), " * ") {
		unit, ok := map[string]time.Duration{"time.Hour": time.Hour, "time.Minute": time.Minute, "time.Second": time.Second}[factor]
		if n, err := strconv.Atoi(factor); err == nil {
			unit, ok = time.Duration(n), true
		}
		if !ok {
			t.Fatalf("%s: what is %s?", name, factor)
		}
		product *= unit
	}
	return product
}
