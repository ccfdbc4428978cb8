package handler

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// checkIdentityKeys says what is wrong with keys that are given as they are;
// what placeholders stand for is known when the configuration is loaded.
func (h *Handler) checkIdentityKeys() error {
	for i, word := range h.IdentityKey {
		if trackers.HasPlaceholder(word) {
			continue
		}
		if _, err := tagging.ParseSealKey(word); err != nil {
			return fmt.Errorf("identity_key: key %d: %v", i+1, err)
		}
	}
	return nil
}

// checkIdentityPlain says what is wrong with the option.
func (h *Handler) checkIdentityPlain() error {
	switch {
	case h.IdentityPlain != "" && h.IdentityPlain != "allow" && h.IdentityPlain != "drop":
		return fmt.Errorf("identity_plain: %q is not one of allow, drop", h.IdentityPlain)
	case h.IdentityPlain == "drop" && len(h.IdentityKey) == 0:
		return errors.New("identity_plain drop takes sealed identities alone, and nothing opens them: add identity_key <key>, with what `caddy tagged-urls key` prints")
	}
	return nil
}

// IdentityKeys returns the keys of sealed identities, with placeholders
// resolved: the first seals, all of them open. Its errors don't show them.
func (h *Handler) IdentityKeys() (keys []*tagging.SealKey, err error) {
	for i, word := range h.IdentityKey {
		text := word
		if trackers.HasPlaceholder(word) {
			if text, err = caddy.NewReplacer().ReplaceOrErr(word, true, true); err != nil {
				return nil, fmt.Errorf("identity_key: key %d: %v: `caddy tagged-urls key` makes a key; placeholders are those of the process, such as {env.NAME} and {file.NAME}", i+1, err)
			}
		}
		words := strings.Fields(text) // a file may hold more than one, and ends with a line break
		if len(words) == 0 {
			return nil, fmt.Errorf("identity_key: key %d%s is empty; `caddy tagged-urls key` makes one", i+1, placeholder(word))
		}
		for _, one := range words {
			key, err := tagging.ParseSealKey(one)
			if err != nil {
				return nil, fmt.Errorf("identity_key: key %d%s: %v", i+1, placeholder(word), err)
			}
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// placeholder returns a word for an error's text if it is a placeholder, and so
// no key.
func placeholder(word string) string {
	if strings.HasPrefix(word, "{") && strings.HasSuffix(word, "}") {
		return " (" + word + ")"
	}
	return ""
}

// checkLists says what is wrong with the lists of events and properties.
func (h *Handler) checkLists() error {
	for option, patterns := range map[string][]string{"events": h.Events, "properties": h.Properties} {
		if slices.Contains(patterns, "") {
			return fmt.Errorf("%s: an empty pattern fits nothing that is ever recorded; leave it out", option)
		}
	}
	return nil
}
