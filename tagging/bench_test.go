package tagging

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// documented is the query of the link in Kissmetrics' style that the README
// shows.
const documented = "kme=Clicked+Link&kmi=john.smith&km_Link+Location=top"

var untagged = map[string]string{
	"none":                    "",
	"100B":                    "utm_source=newsletter&utm_medium=email&utm_campaign=spring%20sale&id=48151623&page=2&sort=price_asc&x=1",
	"1KB":                     strings.Repeat("utm_source=newsletter&id=4815&q=a%20b&page=2&", 23),
	"1KB_near_misses":         strings.Repeat("km=1&akme=2&kmx=3&kMe=4&k=5&mkmi=6&", 30),
	"1KB_encoded_near_misses": strings.Repeat("km=1&akme=2&kmx=3&kMe=4&km%5=5&", 33),
}

func BenchmarkHasTags(b *testing.B) {
	for name, query := range untagged {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if HasTags(query) {
					b.Fatal("tags in ", query)
				}
			}
		})
	}
}

var (
	parsed Tags
	values url.Values
)

func BenchmarkParse(b *testing.B) {
	b.Run("documented", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			parsed = Parse(documented, nil)
		}
	})
	b.Run("documented_url.ParseQuery", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var err error
			if values, err = url.ParseQuery(documented); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, query := range hostile {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Parse(query, nil)
			}
		})
	}
}

func BenchmarkStrip(b *testing.B) {
	for name, query := range map[string]string{"untagged": untagged["100B"], "tagged": "id=1&" + documented + "&page=2"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				StripAll.Query(query)
			}
		})
	}
}

func BenchmarkRedact(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Redact("/offer?" + documented)
	}
}

func BenchmarkResolve(b *testing.B) {
	keys, scope := NewKeys([]byte("secret")), Scope{Name: "example.com"}
	value := keys.Seal(someCookie, scope)
	b.ReportAllocs()
	for b.Loop() {
		cookie := keys.Open(value, scope)
		if cookie.None() {
			b.Fatal("not our cookie")
		}
		value = keys.Seal(Resolve(Browser{Navigation: true, Name: "john", Cookie: cookie}, nil).Cookie, scope)
	}
}

// hostile are queries of about a megabyte, or less if that takes long.
var hostile = map[string]string{
	"1MB_identities":  strings.Repeat("kmi=john@example.com&", 1<<20/21),
	"1MB_properties":  distinctProperties(1 << 20),
	"1MB_one_name":    strings.Repeat("km_a=b&", 1<<20/7),
	"1MB_near_misses": strings.Repeat("km=1&kmx=2&", 1<<20/11),
	"1MB_ampersands":  strings.Repeat("&", 1<<20),
	"1MB_value":       "km_a=" + strings.Repeat("%F0", 1<<20/3),
	"1MB_name":        "km_" + strings.Repeat("%C3%A4", 1<<20/6) + "=1",
	"1MB_km":          strings.Repeat("km_", 1<<20/3),
	"1MB_merge":       "kmi=" + strings.Repeat("[[", 1<<19),
	"1MB_debris":      strings.Repeat("kmi=%3C"+strings.Repeat("%25", 40)+strings.Repeat("a'", 40)+"@example.org%3E&", 1<<20/230),
	"128KB_names":     strings.Repeat("kmi=%22"+strings.Repeat("a.'$ %20", 30)+".&", 1<<17/250),
	"1MB_questions":   strings.Repeat("?km_", 1<<18),
	"1MB_encoded":     strings.Repeat("%3Fkm_", 1<<20/6),
	"1MB_references":  "&" + strings.Repeat("amp;", 1<<18) + "km",
	"1MB_percents":    "%" + strings.Repeat("25", 1<<19) + "km",
	"1MB_zeros":       "&#" + strings.Repeat("0", 1<<20) + "km",
	"1MB_dropped":     strings.Repeat("km__k=1&", 1<<17),
}

func distinctProperties(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		b.WriteString("km_")
		for n := i; ; n /= 26 {
			b.WriteByte(byte('a' + n%26))
			if n < 26 {
				break
			}
		}
		b.WriteString("=1&")
	}
	return b.String()
}

// BenchmarkSeal makes a cookie's value.
func BenchmarkSeal(b *testing.B) {
	keys := NewKeys([]byte("secret"))
	cookie, scope := Cookie{Anonymous: newAnonymous(), Made: time.Now(), Name: "customer1@example.com"}, Scope{Name: "shop.example.com"}
	b.ReportAllocs()
	for b.Loop() {
		keys.Seal(cookie, scope)
	}
}
