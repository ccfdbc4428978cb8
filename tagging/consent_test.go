package tagging

import (
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"
)

func TestConsent(t *testing.T) {
	for _, test := range []struct {
		cookies  string // one header a line
		patterns []string
		want     bool
	}{
		{"", nil, false},
		{"other=yes", nil, false},
		{"agreed", nil, false},
		{"agreed=", nil, false},
		{`agreed=""`, nil, false},
		{"agreed=yes", nil, true},
		{"Agreed=yes", nil, false},
		{"agreed2=yes; xagreed=yes", nil, false},
		{"a=b;agreed=no; c=d", nil, true},
		{"a=b\n agreed = yes ", []string{"yes"}, true},
		{"agreed=no", []string{"yes"}, false},
		{"agreed=yes", []string{"ja", "yes"}, true},
		{"agreed=Yes", []string{"yes"}, false},
		{"agreed=yes", []string{"ye"}, false},
		{"agreed=yes", []string{"es"}, false},
		{"agreed=yes", []string{"*"}, true},
		{"agreed=", []string{"*"}, false},
		{`agreed="yes"`, []string{"yes"}, true},
		{"agreed=a%2Cb", []string{"a,b"}, true},
		{"agreed=a%2Cb", []string{"a%2Cb"}, true},
		{"agreed=I+agree", []string{"I agree"}, true},
		{"agreed=I%20agree", []string{"I agree"}, true},
		{"agreed=I agree", []string{"I agree"}, true},
		{"agreed=1+1%3D2", []string{"1+1=2"}, true},
		{"agreed=100%;x=y", []string{"100%"}, true},
		{"agreed=ano,á", []string{"*á"}, true},
		{`agreed={"a":"b,c"}`, []string{`*"a":"b*`}, true},
		{`agreed=a\b`, []string{`a\b`}, true},
		{"agreed=a=b=c", []string{"*b=c"}, true},
		// Of several, each must fit.
		{"agreed=yes; agreed=no", []string{"yes"}, false},
		{"agreed=no\nagreed=yes", []string{"yes"}, false},
		{"agreed=yes; agreed=ja", []string{"yes", "ja"}, true},
		{"agreed=; agreed=yes", []string{"yes"}, true},
		{"agreed=yes; agreed={\"no\"}", []string{"yes"}, false},
	} {
		h := http.Header{}
		if test.cookies != "" {
			h["Cookie"] = strings.Split(test.cookies, "\n")
		}
		if got := (&Consent{"agreed", test.patterns}).Given(h); got != test.want {
			t.Errorf("%q, %q: %v", test.cookies, test.patterns, got)
		}
	}
}

func TestCookieValues(t *testing.T) {
	h := http.Header{"Cookie": {`a=1; b={"x":[1,2]}; a="2";a=`, "a = a b ;c"}}
	if got, want := slices.Collect(CookieValues(h, "a")), []string{"1", "2", "", "a b"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := slices.Collect(CookieValues(h, "b")), []string{`{"x":[1,2]}`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// FuzzMatches compares with the standard library, where both mean the same.
func FuzzMatches(f *testing.F) {
	for _, seed := range [][2]string{{"*", ""}, {"a*b*c", "abbc"}, {"*ab*ab", "abab"}, {"a*a", "a"}, {"**", "x"}, {"", ""}, {"*a", "aa"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if strings.ContainsAny(pattern, `?[\/`) || strings.Contains(s, "/") {
			return // path.Match knows more, and stops at slashes
		}
		if want, err := path.Match(pattern, s); err != nil || matches(pattern, s) != want {
			t.Errorf("%q, %q: want %v, %v", pattern, s, want, err)
		}
	})
}
