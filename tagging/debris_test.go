package tagging

import (
	"strings"
	"testing"
)

func TestAddressesAreRepaired(t *testing.T) {
	const jane = "jane@example.org"
	for _, around := range []string{
		"%s>", "%s.", "%s,", "%s)", "%s;", "%s:", "%s!", "%s'", "%s\"", "%s`", "%s]", "%s&", "%s/", "%s\\", "%s|", "%s*", "%s-", "%s --", "%s –", "%s”", "%s’", "%s»", "%s。", "%s，", "%s>.", "%s\">", "%s'/", "%s'),", "%s\"/>", "%s</a>", "%s.)", "%s>,\r\n",
		"<%s", "<%s>", "\"%s\"", "'%s'", "“%s”", "‘%s’", "„%s“", "(%s)", "[%s", ">%s", "> %s", ",%s", ";%s", ":%s", "=%s", "&%s", "?%s", "*%s*", "`%s`", "《%s》", "\\\"%s\\\"", "'%s", "\"<%s>\"", "<<%s",
		"mailto:%s", "MAILTO:%s", "<mailto:%s>", "mailto:%%20%s", "smtp:%s", "SMTP:%s", "email:%s", "email=%s", "kmi=%s", "km_i=%s", "&lt;%s&gt;", "&quot;%s&quot;", "%s&gt;", "%s&amp;", "%s&nbsp;",
		"=3D%s", "=3d%s", "==3D%s", "=3D=3D%s", "=20%s", "=3C%s=3E", "=22%s=22", "%s=20", "%s=0D=0A", "\\u003c%s\\u003e", "b'%s'", "b\"%s\"", "u'%s'",
		"mailto://%s", "http://%s", "http://%s/", "https://%s", "//%s", "To: %s", "E-Mail: %s", "3D\"%s\"", "=3D\"%s\"", "&nbsp;%s", "• %s", "· %s", "→%s",
		"acct:%s", "sip:%s", "sips:%s", "xmpp:%s", "im:%s", "skype:%s", "mail:%s", "cc: %s", "From: %s", "Reply-To: %s", "user=%s", "user: %s", "username=%s", "user_id=%s", "login=%s", "id=%s", "uid=%s", "Contact: %s", "recipient=%s", "acct%%3A%s", "<acct:%s>",
		"1. %s", "12. %s", "1) %s", "(1) %s", "a) %s", "1: %s", "[1] %s", "- %s", "– %s", "-- %s", "+ %s", "# %s", "> %s", "| %s", "1.\u00a0%s", "- <%s>", "1. mailto:%s", "* %s", "**%s**",
		"%s?utm_source=x", "%s?", "%s#top", "%s&utm_source=x", "%s?kme=X",
		" %s ", "\t%s\r\n", "%s\u00a0", "\ufeff%s", "\u200b%s\u200b", "\u202a%s\u202c", "%s\u2028", "\u3000%s",
		"%s%%20", "%s%%0D%%0A", "%s%%3E", "%s%%27/", "%%3C%s%%3E", "%s%%C2%%A0", "%%E2%%80%%8B%s", "%%22%s%%22", "%%253C%s%%253E", "mailto%%3A%s",
	} {
		for _, address := range []string{jane, "jane%40example.org", "jane%2540example.org", "jane%25252540example.org", "ja\u200bne@exam\u00adple.org", "jane@example\u2060.org"} {
			id := strings.ReplaceAll(strings.ReplaceAll(around, "%%", "\x01"), "%s", address)
			id = strings.ReplaceAll(id, "\x01", "%")
			if strings.HasPrefix(around, "<<") {
				if got, reason := defaultRules.Accept(id); reason != IdentityMerge {
					t.Errorf("%q becomes %q, %q", id, got, reason)
				}
				continue
			}
			if got, reason := defaultRules.Accept(id); got != jane || reason != "" {
				t.Errorf("%q becomes %q, %q", id, got, reason)
			}
		}
	}
	for id, want := range map[string]string{
		"jane@example.org <jane@example.org>": jane, "jane@example.org, jane@example.org": jane, "<jane@example.org>;<jane@example.org>": jane, "jane@example.org, joe@example.org": "jane@example.org, joe@example.org",
		"jane=40example.org": jane, "jane&#64;example.org": jane, "jane&#x40;example.org": jane, "jane&commat;example.org": jane, `jane\u0040example.org`: jane, `jane\x40example.org`: jane, "jane%u0040example.org": jane, "jane%26%2364%3Bexample.org": jane, "jane＠example.org": jane,
		"kmi=3Djane@example.org": "", "<bob@intranet>": "bob@intranet", "bob@intranet,": "bob@intranet", "mailto:bob@intranet": "bob@intranet",
		"bob x@example.org>": "bob+x@example.org", "<jörg@exämple.de>": "jörg@exämple.de", "bob%20x%40example.org": "bob+x@example.org",
		"o'brien@example.org'": "o'brien@example.org", "<o'brien@example.org>": "o'brien@example.org", "jane@example.co.uk.": "jane@example.co.uk", "100%25@example.org": "100%@example.org",
	} {
		if got, reason := defaultRules.Accept(id); got != want || (got == "") != (reason != "") {
			t.Errorf("%q becomes %q, %q; want %q", id, got, reason, want)
		}
	}
	for id, want := range map[string]string{
		" 12345 ": "12345", "M-12345\u00a0": "M-12345", "\tjohn smith\r\n": "john smith", "\ufeffjohn": "john", "jo\u00adhn.smi\u200bth": "john.smith", "john\u200d": "john", "jo\u202ehn": "john", "John\u00a0Smith": "John Smith", "نیم\u200cفاصله": "نیم\u200cفاصله",
	} {
		if got, reason := defaultRules.Accept(id); got != want || reason != "" {
			t.Errorf("%q becomes %q, %q; want %q", id, got, reason, want)
		}
	}
}

// uncertain are identities with something around them of which nobody knows
// where it ends.
var uncertain = []string{
	"3Djane@example.org", "3D3Djane@example.org", "=3D3Djane@example.org", "u003ejane@example.org", "jane@example.or=", "jane@example.o…", "jane@example...", "jane@exam..", "jane@example.org' or 1=1--", "jane@example.org;cat /etc/passwd", "jane@example.org<script>alert(1)</script>", "jane@example.org/offer", "jane@example.org\u00b7x", "{jane@example.org",
	"john.smith'/", "john.smith'", "john.smith\"", "john.smith>", "<john.smith", "john.smith)", "john.smith,", "john.smith;", "john.smith:", "john.smith.", "john.smith..", "john.smi…", "john.smi...", "john.smith?", "john.smith/", "john.smith\\", "john.smith&", "john.smith=", "john.smith|", "john.smith\">", "john.smith”", "john.smith’", "john.smith»", "john.smith。", "john.smith%27/", "john.smith%27", "john.smith%22%3E", "john.smith%3E", "john.smith%0D%0A", "john.smith%20", "john.smith%C2%A0", "12345.", "12345,", "12345)", "12345>", "John Smith,", "John Smith>",
	"\"john.smith", "“john.smith", "(john.smith", "=john.smith", "&john.smith", "?john.smith", ",john.smith", ";john.smith", "=3Djohn.smith", "mailto:john.smith", "kmi=john.smith", "b'john.smith'", "`john.smith",
	"john.smith' or '1'='1", "john.smith';--", "john.smith')", "john.smith\" or 1=1", "john.smith</a>", "john.smith<script>", "john.smith<img src=x>", "../../etc/passwd", "john.smith\"/>", "john.smith<!--", "=?utf-8?Q?jane=40example.org?=", "=?utf-8?B?amFuZQ==?=", "jane @example.org", "12345 or 1=1", "12345 AND 1=1-- -", "12345 union all select null,(1)", "12345 and sleep(5)", "john.smith&gt;", "john.smith&quot;", "john.smith&#39;", "john.smith&nbsp;", "john.smith&nbsp",
	"12345<", "12345(", "12345[", "12345{", "12345“", "john.smith<", "john.smith(", "john.smith[", "12345%3C", "12345-", "12345_", "12345#", "12345*", "12345 -", "12345 |", "12345$", "12345~", "12345^", "12345+", "12345!", "12345&",
	"\"12345", "(12345", "<12345", ",12345", "=12345", "&12345", "sip:john.smith", "user=john.smith", "email:john.smith", "id=12345", "jane&kme=C", "12345&km_x=1",
	"john.smith=20", "12345=20", "12345=0D=0A", "john.smith=0A", `john.smith\n`, `john.smith\r\n`, `12345\t`, `12345\u0000`,
}

func TestUncertainIdentitiesAreDropped(t *testing.T) {
	for _, id := range uncertain {
		if got, reason := defaultRules.Accept(id); reason != IdentityDebris {
			t.Errorf("%q becomes %q, %q", id, got, reason)
		}
	}
}

func TestUnescaped(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "%": "%", "50%": "50%", "%4": "%4", "%40": "@", "%2540": "@", "%25252540": "@", "%2%35": "%", "%%3440": "D0", "%zz%41": "%zzA", "%%34%30": "@", "%25zz": "%zz", "%c3%25bc": "ü",
	} {
		if got := unescaped(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}

func FuzzUnescaped(f *testing.F) {
	f.Add("%25252540%%3440")
	f.Fuzz(func(t *testing.T, s string) {
		want := s
		for before := ""; before != want; { // again and again, as the standard library would
			before = want
			var text strings.Builder
			for i := 0; i < len(want); {
				c, next := want[i], i+1
				if c == '%' {
					c, next = escapedByte(want, i)
				}
				i = next
				text.WriteByte(c)
			}
			want = text.String()
		}
		if got := unescaped(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	})
}
