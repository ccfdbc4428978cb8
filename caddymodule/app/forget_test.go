package app

import (
	"errors"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// TestWhoIsForgotten: whatever links call a person, it is their name that is
// forgotten.
func TestWhoIsForgotten(t *testing.T) {
	t.Parallel()
	newKey := func() *tagging.SealKey {
		key, err := tagging.ParseSealKey(tagging.NewSealKey())
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	seal := func(key *tagging.SealKey, ends time.Time) string {
		token, err := key.Seal("mailto:jane@example.org", ends)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	ours, others := newKey(), newKey()
	a := &App{rules: []*tagging.Rules{
		tagging.NewRules(tagging.RulesOptions{}),
		tagging.NewRules(tagging.RulesOptions{SealKeys: []*tagging.SealKey{ours}, Email: tagging.EmailHash, EmailKey: []byte("key")}),
		tagging.NewRules(tagging.RulesOptions{SealKeys: []*tagging.SealKey{others}, Forgotten: func(string) bool { return true }}),
	}}
	for identity, want := range map[string]string{
		"jane@example.org": "jane@example.org", " \u200bjane@example.org\n": "jane@example.org", "mailto:jane@example.org": "jane@example.org",
		"jane%40example.org": "jane@example.org", "guest": "guest", "{{email}}": "{{email}}",
		seal(ours, time.Time{}): "jane@example.org", " " + seal(others, time.Time{}) + "\n": "jane@example.org",
	} {
		if name, err := a.nameOf(identity); name != want || err != nil {
			t.Errorf("%q is %q, %v; want %q", identity, name, err, want)
		}
	}
	for _, identity := range []string{seal(newKey(), time.Time{}), seal(ours, time.Now().Add(-time.Hour)), seal(ours, time.Time{}) + "x"} {
		if name, err := a.nameOf(identity); !errors.Is(err, ErrSealed) {
			t.Errorf("%q is %q, %v", identity, name, err)
		}
	}
}
