package tagging

import (
	"net/http"
	"strings"
)

// Consent says which cookie a visitor has who agreed to be recorded.
type Consent struct {
	// Cookie is the cookie's name.
	Cookie string
	// Patterns are what its value may look like; `*` stands for anything. With
	// none, any value will do that isn't empty.
	Patterns []string
}

// Given reports whether a request comes from a visitor who agreed. A pattern
// fits if it does so to the value as it was sent or, as most consent managers
// encode theirs, to the URL-decoded one. Of several cookies of that name each
// must fit: nobody knows which of them the manager goes by.
func (c *Consent) Given(h http.Header) bool {
	given := false
	for value := range CookieValues(h, c.Cookie) {
		if value == "" {
			continue
		}
		if !c.fits(value) {
			return false
		}
		given = true
	}
	return given
}

func (c *Consent) fits(value string) bool {
	if len(c.Patterns) == 0 {
		return true
	}
	var d decoder
	decoded, form := d.percent(value), d.form(value)
	for _, pattern := range c.Patterns {
		if matches(pattern, value) || matches(pattern, decoded) || matches(pattern, form) {
			return true
		}
	}
	return false
}

// CookieValues yields the values of all cookies of a name, as they were sent,
// but without quotation marks around them. net/http leaves out those that have
// a quotation mark, a backslash or a byte beyond ASCII in them, such as the
// JSON that scripts set.
func CookieValues(h http.Header, name string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for _, line := range h["Cookie"] {
			for cookie := range strings.SplitSeq(line, ";") {
				got, value, _ := strings.Cut(cookie, "=")
				if strings.TrimSpace(got) != name {
					continue
				}
				value = strings.TrimSpace(value)
				if n := len(value); n > 1 && value[0] == '"' && value[n-1] == '"' {
					value = value[1 : n-1]
				}
				if !yield(value) {
					return
				}
			}
		}
	}
}

// matches reports whether all of s fits a pattern, in which * stands for any
// number of any characters.
func matches(pattern, s string) bool {
	first, rest, found := strings.Cut(pattern, "*")
	if !found {
		return s == pattern
	}
	s, ok := strings.CutPrefix(s, first)
	if !ok {
		return false
	}
	for {
		part, more, found := strings.Cut(rest, "*")
		if !found {
			return strings.HasSuffix(s, part)
		}
		at := strings.Index(s, part)
		if at < 0 {
			return false
		}
		s, rest = s[at+len(part):], more
	}
}
