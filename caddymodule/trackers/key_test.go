package trackers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestResolveKey(t *testing.T) {
	t.Parallel()
	const key = "0123456789abcdef0123456789abcdef01234567"
	for _, test := range []struct{ content, wrong string }{
		{key, ""},
		{key + "\n", ""},
		{" " + key + "\r\n\n", ""},
		{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw==", ""},
		{"", ""}, // disables the tracker
		{`"` + key + `"`, "character 1 (U+0022) is a quotation mark: leave it out"},
		{`'` + key + `'`, "quotation mark"},
		{key + `"`, "character 41 (U+0022) is a quotation mark"},
		{"“" + key + "”", "quotation mark"},
		{"„" + key + "“", "quotation mark"},
		{"‘" + key + "’", "quotation mark"},
		{"«" + key + "»", "quotation mark"},
		{"`" + key + "`", "quotation mark"},
		{"\ufeff" + key, "(U+FEFF) is a byte order mark: save the file"},
		{"\xff\xfe" + strings.Join(strings.Split(key, ""), "\x00") + "\x00", "not UTF-8"},
		{"0\x001\x002\x00", "zero byte"},
		{key[:20] + " " + key[20:], "character 21 (U+0020) is a blank"},
		{key[:20] + "\u00a0" + key[20:], "blank"},
		{key[:20] + "\t" + key[20:], "blank"},
		{key[:20] + "\n" + key[20:], "line break"},
		{"# Kissmetrics\n" + key, "blank"},
		{key[:20] + "\u200b" + key[20:], "doesn't show"},
		{key[:20] + "\u00ad" + key[20:], "doesn't show"},
		{key[:20] + "\x1b" + key[20:], "doesn't show"},
		{key[:20] + "\x7f" + key[20:], "doesn't show"},
		{"а" + key[1:], "isn't ASCII"}, // Cyrillic
		{key[:20] + "–" + key[20:], "isn't ASCII"},
	} {
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ResolveKey("api_key", "{file."+file+"}")
		switch {
		case test.wrong == "" && (err != nil || got != strings.TrimSpace(test.content)):
			t.Errorf("%q: %q, %v", test.content, got, err)
		case test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong) || !strings.Contains(err.Error(), "api_key {file."+file+"}: ")):
			t.Errorf("%q: error %v, want one with %q and the placeholder", test.content, err, test.wrong)
		}
		if err != nil && strings.Contains(err.Error(), key[:8]) {
			t.Errorf("the error holds the key: %v", err)
		}
	}
}

func TestParseURL(t *testing.T) {
	t.Parallel()
	for value, wrong := range map[string]string{
		"https://example.com/a%20b?c=d": "",
		"https://bücher.example/ü":      "",
		`"https://example.com"`:         "quotation mark",
		"“https://example.com”":         "quotation mark",
		"https://example.com/x'":        "quotation mark",
		"\ufeffhttps://example.com":     "byte order mark",
		"https://example.com/a b":       "blank",
		"https://exam\nple.com":         "line break",
		"https://example.com/\u200b":    "doesn't show",
		"example.com":                   "must begin with https://",
		"https://example.com:port":      "not a URL",
	} {
		_, err := ParseURL(value)
		if wrong == "" && err != nil || wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)) {
			t.Errorf("%q: error %v, want %q", value, err, wrong)
		}
	}
}
