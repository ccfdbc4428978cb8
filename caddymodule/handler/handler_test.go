package handler

import (
	"strings"
	"testing"

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
