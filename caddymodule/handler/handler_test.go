package handler

import (
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// A key that is a placeholder's own name would be known to anybody.
func TestPlaceholdersOfTheKeyForAddresses(t *testing.T) {
	t.Setenv("PEPPER", "pepper")
	for key, why := range map[string]string{
		"pepper": "", "{env.PEPPER}": "", `\{env.PEPPER}`: "",
		"{PEPPER}": "{env.NAME}", "{env.NOBODY_SETS_THIS}": "empty", "": "isn't empty",
	} {
		h := &Handler{IdentityEmail: IdentityEmail{Policy: "hash", Key: key}}
		err := h.provisionOptions()
		if (err != nil) != (why != "") || err != nil && !strings.Contains(err.Error(), why) {
			t.Errorf("with the key %q: %v; want %q", key, err, why)
		}
	}
}

func TestDefaultsAreWordsToo(t *testing.T) {
	if unset, err := parseStrip(""); err != nil || unset != tagging.StripIdentity {
		t.Error("strip's default isn't identity")
	}
	if unset, err := parseEmailPolicy(""); err != nil || unset != tagging.EmailAllow {
		t.Error("identity_email's default isn't allow")
	}
}

// With a Caddy in which identities would leak, no configuration is loaded.
func TestUnknownCaddyIsRefused(t *testing.T) {
	leaks := errors.New("it leaks")
	if err := new(Handler).provision(caddy.Context{}, func() error { return leaks }); err != leaks {
		t.Errorf("provisioned with %v", err)
	}
	if err := protects(); err != nil {
		t.Errorf("the Caddy that is tested is refused: %v", err)
	}
}

// The transport of an earlier forward_auth that got a connection elsewhere may
// still be dialing, and reads the request's variables and placeholders then.
// The race detector sees whether we write to them without their lock; without
// it, Go ends Caddy if it happens.
func TestRequestIsReadByABackgroundDial(t *testing.T) {
	a := newTestHost(takes)
	h := a.directive("main")
	h.rules = tagging.NewRules(tagging.RulesOptions{})
	h.placeholders, h.placeholdersUsed = []string{placeholderPrefix + "event", placeholderPrefix + "property.Plan"}, true
	page := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	for target, want := range map[string]string{"/?kme=Clicked&kmi=john&km_Plan=gold&km_run=" + rand.Text(): "Clicked gold", "/": " "} {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.Header.Set("Sec-Fetch-Mode", "navigate")
		repl := caddy.NewReplacer()
		r = caddyhttp.PrepareRequest(r, repl, httptest.NewRecorder(), nil)
		var dial sync.WaitGroup
		dialing := make(chan struct{})
		for _, reads := range []func(){
			func() { caddyhttp.GetVar(r.Context(), "reverse_proxy.something") },
			func() { repl.ReplaceAll("{system.os}", "") }, // found without the lock
		} {
			dial.Go(func() {
				<-dialing
				reads()
			})
		}
		close(dialing)
		if err := h.ServeHTTP(httptest.NewRecorder(), r, page); err != nil {
			t.Error(err)
		}
		dial.Wait()
		if got := repl.ReplaceKnown("{http.tagged_urls.event} {http.tagged_urls.property.Plan}", ""); got != want {
			t.Errorf("%s: the placeholders are %q; want %q", target, got, want)
		}
	}
}
