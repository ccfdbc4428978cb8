package tagging

import (
	"slices"
	"strings"
)

// delimiters are what a URL or a query can follow, in whatever quotes it.
const delimiters = "?&#;,=|\"'`<>(){}[] \t\r\n"

// Header removes tags from a request header's URLs of these hosts, and reports
// whether there were any. Such a URL is absolute, or begins with a slash, and
// is the whole value or one of a list, in quotes, in angle brackets or behind
// "name="; it may be percent-encoded as a whole. Every other byte stays.
func (s Strip) Header(value string, hosts ...string) (string, bool) {
	if s == StripNone || !MayHold(value) || !holdsName(value) {
		return value, false
	}
	var b strings.Builder
	kept := 0
	for i := 0; i >= 0 && i < len(value); {
		isURL, own := belongs(value[i:], hosts)
		if !isURL {
			i, _, _ = behindDelimiter(value, i)
			continue
		}
		end := urlEnd(value, i)
		if !own {
			i = end
			continue
		}
		clean, ok := value[i:end], false
		if value[i] == '%' || strings.IndexByte(clean, '?') < 0 {
			clean, ok = s.nested(clean, func(string) bool { return true })
		} else {
			clean, ok = s.URL(clean)
		}
		if ok {
			b.WriteString(value[kept:i])
			b.WriteString(clean)
			kept = end
		}
		i = end
	}
	if kept == 0 {
		return value, false
	}
	b.WriteString(value[kept:])
	return b.String(), true
}

// holdsName reports whether a tag's name may begin at any place where one can.
func holdsName(value string) bool {
	for i := 0; i >= 0; i, _, _ = behindDelimiter(value, i) {
		if _, ok := skip(value, skipDamage(value, i), "km", false); ok {
			return true
		}
	}
	return false
}

// belongs reports whether s begins with a URL, encoded or not, and whether that
// certainly is one of these hosts'.
func belongs(s string, hosts []string) (isURL, own bool) {
	_, isPath := skip(s, 0, "/", false)
	if _, ok := skip(s, 0, "http", true); !isPath && !ok {
		return false, false
	}
	s = decodeNested(s[:min(len(s), 1024)])
	if end := strings.IndexAny(s, " \t\"'<>"); end >= 0 {
		s = s[:end]
	}
	if !isPath {
		scheme := schemeOf(s)
		s = s[len(scheme):]
		if !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") || !strings.HasPrefix(s, "://") {
			return false, false
		}
		s = s[1:]
	}
	if !hasTwoSlashes(s) {
		return true, true
	}
	other := plainHost(authority(s))
	return true, slices.ContainsFunc(hosts, func(host string) bool { return host != "" && plainHost(host) == other })
}

// urlEnd returns where the URL ends that begins at i of a header's value.
func urlEnd(value string, i int) int {
	stop, rest := " \t", value[i:]
	if i > 0 {
		switch value[i-1] {
		case '"', '\'', '`':
			stop = value[i-1 : i]
		case '<':
			stop = ">"
		case '(':
			stop = ")"
		case '=':
			stop = " \t;,\""
		}
	}
	if n := strings.IndexAny(rest, stop); n >= 0 {
		rest = rest[:n]
	}
	if stop == " \t" && i+len(rest) < len(value) {
		rest = strings.TrimRight(rest, ",;") // a list's
	}
	return i + len(rest)
}

// maxRepeated bounds how many of a query's tags are looked for in a header.
const maxRepeated = 128

// Repeated removes the tags of a query from a header's value, wherever and
// however encoded that repeats them, and reports whether it did: the target of
// a request in a list, in quotes, as a parameter, or the query alone.
func (s Strip) Repeated(value, query string) (string, bool) {
	if s == StripNone || !MayHold(value) || !holdsName(value) {
		return value, false
	}
	var texts []string
	for t, ok := s.next(query, tag{}); ok && len(texts) < maxRepeated; t, ok = s.next(query, t) {
		texts = append(texts, decodeNested(query[t.start:t.end]))
	}
	var b strings.Builder
	kept, before, separator := 0, 0, byte(0)
	for i := 0; ; {
		from := skipDamage(value, i)
		if end, last := repeatedRun(value, from, texts); end > from {
			if last && (separator == '?' || separator == '&') {
				from = before
			}
			b.WriteString(value[kept:from])
			kept, i = end, end
		}
		behind, _, _ := behindDelimiter(value, i)
		if behind < 0 {
			break
		}
		// The delimiter is the last character before that position.
		for before = i; ; before = i {
			separator, i, _ = nestedByte(value, i)
			if i == behind {
				break
			}
		}
	}
	if kept == 0 {
		return value, false
	}
	b.WriteString(value[kept:])
	return b.String(), true
}

// repeatedRun returns where the repeated tags end that begin at i: behind the
// '&' that follows them, or if there is none, at the end of the last. If there
// are none it returns i.
func repeatedRun(value string, i int, texts []string) (end int, last bool) {
	for end = i; ; {
		behind := -1
		for _, text := range texts {
			if behind = repeats(value, end, text); behind >= 0 {
				break
			}
		}
		if behind < 0 {
			return end, false
		}
		end = behind
		if end == len(value) {
			return end, true
		}
		c, next, _ := nestedByte(value, end)
		if c != '&' {
			return end, true
		}
		end = skipDamage(value, next)
	}
}

// repeats returns where a tag ends that begins at i, or -1: text is decoded,
// and something that can follow a parameter must come next.
func repeats(value string, i int, text string) int {
	for n := range len(text) {
		if i == len(value) {
			return -1
		}
		var c byte
		if c, i, _ = nestedByte(value, i); c != text[n] && (c != ' ' || text[n] != '+') && (c != '+' || text[n] != ' ') {
			return -1
		}
	}
	if i < len(value) {
		if c, _, _ := nestedByte(value, i); strings.IndexByte(delimiters, c) < 0 {
			return -1
		}
	}
	return i
}
