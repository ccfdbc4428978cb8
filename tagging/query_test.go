package tagging

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
)

// golden is what a browser's URLSearchParams makes of queries, as
// testdata/urlsearchparams.mjs had Node.js write it.
func golden(t testing.TB) (table []struct {
	Query string
	Pairs [][2]string
}) {
	t.Helper()
	b, err := os.ReadFile("testdata/urlsearchparams.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &table); err != nil {
		t.Fatal(err)
	}
	if len(table) < 100 {
		t.Fatalf("only %d queries in the table", len(table))
	}
	return table
}

// formPairs is the URL Standard's urlencoded parser, step by step as it is
// written there.
func formPairs(query string) (pairs [][2]string) {
	for sequence := range bytes.SplitSeq([]byte(query), []byte("&")) {
		if len(sequence) == 0 {
			continue
		}
		name, value, _ := bytes.Cut(sequence, []byte("="))
		var pair [2]string
		for i, s := range [][]byte{name, value} {
			pair[i] = utf8Decode(percentDecode(bytes.ReplaceAll(s, []byte("+"), []byte(" "))))
		}
		pairs = append(pairs, pair)
	}
	return pairs
}

func percentDecode(input []byte) (output []byte) {
	for i := 0; i < len(input); i++ {
		if input[i] == '%' && i+2 < len(input) {
			if s, err := url.PathUnescape(string(input[i : i+3])); err == nil {
				output = append(output, s[0])
				i += 2
				continue
			}
		}
		output = append(output, input[i])
	}
	return output
}

// utf8Decode is the Encoding Standard's "UTF-8 decode without BOM", as the
// state machine that is written there.
func utf8Decode(input []byte) string {
	var out []rune
	var point rune
	seen, needed := 0, 0
	lower, upper := byte(0x80), byte(0xBF)
	for i := 0; i < len(input); i++ {
		c := input[i]
		if needed == 0 {
			switch {
			case c <= 0x7F:
				out = append(out, rune(c))
			case c >= 0xC2 && c <= 0xDF:
				needed, point = 1, rune(c&0x1F)
			case c >= 0xE0 && c <= 0xEF:
				if c == 0xE0 {
					lower = 0xA0
				}
				if c == 0xED {
					upper = 0x9F
				}
				needed, point = 2, rune(c&0xF)
			case c >= 0xF0 && c <= 0xF4:
				if c == 0xF0 {
					lower = 0x90
				}
				if c == 0xF4 {
					upper = 0x8F
				}
				needed, point = 3, rune(c&0x7)
			default:
				out = append(out, 0xFFFD)
			}
			continue
		}
		if c < lower || c > upper {
			point, needed, seen, lower, upper = 0, 0, 0, 0x80, 0xBF
			i-- // restore the byte
			out = append(out, 0xFFFD)
			continue
		}
		lower, upper = 0x80, 0xBF
		point = point<<6 | rune(c&0x3F)
		if seen++; seen == needed {
			out = append(out, point)
			point, needed, seen = 0, 0, 0
		}
	}
	if needed != 0 {
		out = append(out, 0xFFFD)
	}
	return string(out)
}

func isTag(name string) bool {
	return name == "kme" || name == "kmi" || strings.HasPrefix(name, "km_")
}

func hasTagNames(pairs [][2]string) bool {
	return slices.ContainsFunc(pairs, func(p [2]string) bool { return isTag(p[0]) })
}

// ourPairs decodes every parameter, tag or not, with the package's decoder.
func ourPairs(query string) (pairs [][2]string) {
	var d decoder
	for p := range strings.SplitSeq(query, "&") {
		if p != "" {
			name, value, _ := strings.Cut(p, "=")
			pairs = append(pairs, [2]string{d.form(name), d.form(value)})
		}
	}
	return pairs
}

func TestDecodesLikeABrowser(t *testing.T) {
	for _, row := range golden(t) {
		if got := formPairs(row.Query); !slices.Equal(got, row.Pairs) {
			t.Errorf("the test's own reference says %q for %q, a browser %q", got, row.Query, row.Pairs)
		}
		if got := ourPairs(row.Query); !slices.Equal(got, row.Pairs) {
			t.Errorf("%q decoded is %q, in a browser %q", row.Query, got, row.Pairs)
		}
		pairs := row.Pairs
		if query := meant(row.Query); query != row.Query {
			pairs = formPairs(query)
		}
		if got, want := HasTags(row.Query), hasTagNames(pairs); got != want {
			t.Errorf("HasTags(%q) = %v, but its parameters are %q", row.Query, got, pairs)
		}
	}
}

func TestHasTagsWhereverTheTagIs(t *testing.T) {
	tags := []string{"kme", "kmi", "km_", "km_e", "km_x=1", "kme=", "%6bme", "k%6de", "km%65", "km%5f", "%6B%6D%69=x", "%6bm%5Fx"}
	near := []string{"", "k", "km", "kmee", "kmx=1", "akme", "Kme", "kMe", "%6b", "%6bm", "k%6d=", "%", "%6", "km%6", "km%", "km%5", "id=1", "%61kme", "kmé"}
	fill := strings.Repeat("x", 40)
	for n := range 40 {
		for _, tag := range tags {
			for _, query := range []string{
				fill[:n] + "&" + tag, tag + "&" + fill[:n], "&" + fill[:n] + "&" + tag + "&" + fill[n:],
				strings.Repeat("&", n) + tag, strings.Repeat("km&", n) + tag,
			} {
				if !HasTags(query) {
					t.Errorf("no tag found in %q", query)
				}
			}
			if query := fill[:n] + tag; n > 0 && HasTags(query) {
				t.Errorf("a tag found in %q", query)
			}
		}
		for _, miss := range near {
			for _, query := range []string{fill[:n] + "&" + miss, miss + "&" + fill[n:], fill[:n] + "&" + miss + "&" + miss} {
				if HasTags(query) {
					t.Errorf("a tag found in %q", query)
				}
			}
		}
	}
}

func TestUntaggedRequestsCostNoMemory(t *testing.T) {
	for name, query := range untagged {
		if HasTags(query) {
			t.Fatalf("%s: tags in %q", name, query)
		}
		if n := testing.AllocsPerRun(100, func() {
			HasTags(query)
			Parse(query, nil)
			StripAll.Query(query)
			StripIdentity.URL(query)
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func FuzzHasTags(f *testing.F) {
	for _, row := range golden(f) {
		f.Add(row.Query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		pairs := formPairs(query)
		if got := ourPairs(query); !slices.Equal(got, pairs) {
			t.Errorf("%q decoded is %q, should be %q", query, got, pairs)
		}
		if got, want := HasTags(query), hasTagNames(formPairs(meant(query))); got != want {
			t.Errorf("HasTags(%q) = %v, but it means %q", query, got, meant(query))
		}
	})
}
