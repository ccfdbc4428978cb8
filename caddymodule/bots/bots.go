// Package bots tells programs from people by the User-Agent header.
//
// It believes what the header says: a program that calls itself a browser
// passes for one. The Go libraries for this compile hundreds of regular
// expressions, know little beyond the search engines, or take CUBOT phones for
// robots; this package asks instead what nearly every program has in its
// User-Agent and what every browser has.
package bots

import (
	"hash/maphash"
	"strings"
	"sync/atomic"
)

// maxLength is how many bytes of a User-Agent are looked at. In-app browsers
// send several hundred; what is much longer only means to keep us busy.
const maxLength = 2048

// Is reports whether userAgent is that of a crawler, a link preview, a
// mail-security scanner or an HTTP tool. One that is empty or blank is.
//
// These are a program's: a word or a name that says so, an address to read or
// write to about it, "compatible" with nothing that is a browser, and whatever
// names neither a browser nor a device that people hold, as curl and nearly
// every HTTP library do.
//
// These are people's: browsers to which an extension or an app adds the address
// of a page; mail providers' image proxies, which fetch when somebody opens the
// mail; a CDN's name in place of the visitor's; media players and Office, which
// open what somebody clicked; and apps that use their system's own HTTP client
// (CFNetwork, Dalvik). A client that an app brings along (okhttp) is a tool:
// nobody opens a landing page with it, while messengers fetch previews with it.
func Is(userAgent string) bool {
	if len(userAgent) > maxRemembered {
		return judge(userAgent)
	}
	place := &remembered[maphash.String(seed, userAgent)%uint64(len(remembered))]
	if last := place.Load(); last != nil && last.userAgent == userAgent {
		return last.is
	}
	is := judge(userAgent)
	place.Store(&judged{strings.Clone(userAgent), is})
	return is
}

// remembered are what was asked for last. Most visitors of an hour send one of
// few User-Agents, and to compare it with the last one takes 18 ns, where to
// judge it takes 2,800 (BenchmarkIs).
var (
	remembered [256]atomic.Pointer[judged]
	seed       = maphash.MakeSeed()
)

// maxRemembered is how long a User-Agent that is remembered may be, in bytes.
const maxRemembered = 512

type judged struct {
	userAgent string
	is        bool
}

func judge(userAgent string) bool {
	ua := strings.TrimSpace(userAgent)
	ua = withoutPages(strings.ToLower(ua[:min(len(ua), maxLength)]))

	switch {
	case containsAny(ua, onBehalf):
		return false
	case hasAnyPrefix(ua, messengers), anyName.in(ua), hasAddress(ua), isAssembled(ua), saysSo(withoutModels(ua)):
		return true
	case strings.Contains(ua, "compatible"):
		return !containsAny(ua, compatibles)
	case strings.Contains(ua, "mozilla/") && containsAny(ua, desktops):
		return false
	}
	return !anyBrowser.in(ua)
}

// onBehalf ask for a person whose User-Agent they replace by their own.
var onBehalf = []string{
	"imageproxy", // Gmail's, Rambler's: somebody opened the mail
	"mailproxy",  // Yahoo's, Seznam's
	"mail.ukr.net proxy",
	"amazon cloudfront", // what it sends unless told to forward the visitor's
}

// messengers are apps that fetch previews under their own name. Their in-app
// browsers begin with Mozilla like all others.
var messengers = []string{"snapchat/", "viber", "whatsapp"}

// words say in general what a program does.
var words = []string{
	"archiver", "checker", "crawl", "fetch", "headless", "indexer", "linkcheck", "monitor", "preview", "scraper",
	"scanning", "screenshot", "slurp", "spider", "spyder", "synthetic", "validator", "vulnerability",
}

// names are programs that have a browser or a phone in their User-Agent too,
// and no such word.
var names = []string{
	// mail security
	"barracuda", "cisco secure", "ciscosecure", "cloudmark", "fireeye", "forcepoint", "fortiguard", "fortimail",
	"hornetsecurity", "ironport", "messagelabs", "mimecast", "office protection", "proofpoint", "safe links",
	"safelinks", "sophos", "spamexperts", "symantec", "trellix", "trend micro", "trendmicro", "vadesecure",
	"virustotal", "websense",

	// link previews, search engines, assistants
	"claude-web", "duplexweb", "facebookexternal", "google favicon", "google page speed", "google search console",
	"google-", "googleagent", "googleother", "kakaotalk-scrap", "line-poker", "mediapartners",

	// HTTP clients
	"axios", "curl/", "http-client", "httpclient", "jsdom", "libwww-perl", "okhttp", "python", "siege/", "wget",
	"winhttp",

	// browsers that nobody sits at
	"archivebox", "catchpoint", "chrome-lighthouse", "dareboost", "debugbear", "dejaclick", "dmbrowser",
	"ghost inspector", "gtmetrix", "htmlunit", "linktiger", "phantomjs", "pingdom", "playwright", "ptst/", "puppeteer",
	"rigor)", "selenium", "slimerjs", "statuscake", "taginspector", "webkit2png", "wkhtmlto", "zombie.js",

	// scanners for holes
	"acunetix", "burpcollaborator", "nikto", "openvas",

	// what scripts leave of a browser's that they copied
	"mozilla/5.0+(", "user-agent:", "w.x.y.z",
}

// compatibles are browsers that call themselves "compatible".
var compatibles = []string{
	"abrowse", "amiga", "avantgo", "ibrowse", "icab", "konqueror", "lotus-notes", "ms-office", "msie", "mspie",
	"netpositive", "omniweb", "opera", "webpositive", "webtv",
}

// desktops are what a "Mozilla" runs on. In others, such as "curl/8.5.0
// (x86_64-pc-linux-gnu)", they say nothing.
var desktops = []string{"cros ", "haiku", "linux", "mac os", "macintosh", "os/2", "sunos", "windows", "x11"}

// phones are what a "Mozilla" that people hold runs on.
var phones = []string{"android", "iphone", "ipad", "ipod"}

// browsersAndDevices are engines, browsers, players and devices that people
// hold or sit before.
var browsersAndDevices = []string{
	"applewebkit", "gecko", "khtml", "presto/", "trident/",
	"chrome/", "firefox/", "msie", "netscape", "opera", "safari", "webview",
	"amiga", "dillo/", "elinks", "ibrowse", "icab/", "links (", "lynx/", "mosaic/", "netsurf", "w3m/",

	"android", "appletv", "blackberry", "cfnetwork", "dalvik", "ipad", "iphone", "ipod", "kindle", "nokia", "symbian",
	"tizen", "webos", "windows ce", "windows phone", "(ios", " ios ", "-ios/", "fban/",
	"hbbtv", "nintendo", "playstation", "roku", "smart-tv", "smarttv", "sonos",
	"bada/", "cldc", "docomo/", "dorado", "j2me", "kddi-", "maui", "midp", "netfront", "obigo", "softbank/", "teleca",
	"ucbrowser", "ucweb", "up.browser", "vodafone/",

	"applecoremedia", "exoplayer", "itunes/", "nsplayer", "quicktime", "stagefright", "vlc",
	"microsoft office",
}

// hasAddress reports whether a URL or an e-mail address is in ua: the place
// where programs' owners tell what they do. Browsers have none, but for one
// component of old Internet Explorers (bsalsa.com).
func hasAddress(ua string) bool {
	if strings.Contains(ua, "http://") || strings.Contains(ua, "https://") {
		return !strings.Contains(ua, "bsalsa.com")
	}
	_, domain, found := strings.Cut(ua, "@")
	// Not Ecosia's "ios@9.2.3", nor a locale's "en_IR@calendar=gregorian".
	if end := strings.IndexFunc(domain, notInDomain); end >= 0 {
		domain = domain[:end]
	}
	return found && startsWithLetter(domain) && strings.Contains(domain, ".")
}

func notInDomain(c rune) bool {
	return c != '.' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z')
}

// withoutPages cuts out of ua the addresses of pages that something within a
// person's browser adds, as in "… Safari/537.36 | Initiator: https://…": what
// is in them says nothing about who asks.
func withoutPages(ua string) string {
	for from := 0; ; {
		at := strings.Index(ua[from:], "http")
		if at < 0 {
			return ua
		}
		at += from
		from = at + len("http")
		if !strings.HasPrefix(strings.TrimPrefix(ua[from:], "s"), "://") {
			continue
		}
		before, page := strings.TrimRight(ua[:at], " "), ua[at:]
		if end := strings.IndexAny(page, " |"); end >= 0 {
			page = page[:end]
		}
		if !isBrowser(before) || isOwners(before, page) {
			return ua
		}
		ua, from = ua[:at]+ua[at+len(page):], at
	}
}

// isOwners reports whether the page that follows before is a program's own. Its
// owner writes it after a plus sign, after the program's name and version, into
// a comment or where to learn more; or it has a program's name in it.
func isOwners(before, page string) bool {
	if containsAny(before, ownersWords) {
		return true
	}
	if strings.HasSuffix(before, ":") || strings.HasSuffix(before, "=") {
		return false // "Initiator: https://…"
	}
	product := before[strings.LastIndexByte(before, ' ')+1:]
	return strings.HasSuffix(before, "+") || strings.Count(before, "(") > strings.Count(before, ")") ||
		strings.Contains(product, "/") && !anyBrowser.in(product) || saysSo(page) || anyName.in(page)
}

// ownersWords are where a program's owner leads to a page about it.
var ownersWords = []string{"abuse", "about", "contact", " info", "opt-out", "optout", " see"}

// isBrowser reports whether ua is a complete browser's, or begins with one.
func isBrowser(ua string) bool {
	system, rest, _ := strings.Cut(ua, ")")
	return strings.HasPrefix(system, "mozilla/5.0 (") && !strings.Contains(ua, "compatible") &&
		(containsAny(system, desktops) || containsAny(system, phones)) &&
		(strings.Contains(rest, "applewebkit/") && containsAny(rest, []string{" safari/", " mobile/"}) ||
			strings.Contains(rest, "gecko/") && strings.Contains(rest, " firefox/"))
}

// isAssembled reports whether ua is put together from parts of others', as by
// what opens mails before people do: a second "Mozilla/5.0" names no system.
func isAssembled(ua string) bool {
	const mark = "mozilla/5.0"
	_, rest, _ := strings.Cut(ua, mark)
	_, rest, found := strings.Cut(rest, mark)
	return found && !strings.HasPrefix(strings.TrimLeft(rest, " "), "(")
}

// saysSo reports whether ua has one of the words in it, or one that ends in
// bot, scan or scanner.
func saysSo(ua string) bool {
	return anyWord.in(ua) ||
		endsWord(ua, "bot", "cu") || // phones, also those without Android
		endsWord(ua, "scan") ||
		endsWord(ua, "scanner", "cam", "code", "qr", "code ", "qr ") // apps with a browser in them
}

// endsWord reports whether a word in ua, or its plural, ends in ending, other
// than right after one of the exceptions.
func endsWord(ua, ending string, exceptions ...string) bool {
	for {
		before, after, found := strings.Cut(ua, ending)
		if !found {
			return false
		}
		if !startsWithLetter(strings.TrimPrefix(after, "s")) && !hasAnySuffix(before, exceptions) {
			return true
		}
		ua = after
	}
}

// withoutModels cuts out of ua what follows "android" in the same parentheses,
// as in "(Linux; Android 9; ROBOT X1 Build/PPR1)": maker and model can have
// any name.
func withoutModels(ua string) string {
	const mark = "android"
	if !strings.Contains(ua, mark) {
		return ua
	}
	var kept strings.Builder
	for {
		before, after, found := strings.Cut(ua, mark)
		kept.WriteString(before)
		if !found {
			return kept.String()
		}
		model, _, closed := strings.Cut(after, ")")
		if !closed {
			model = ""
		}
		ua = after[len(model):]
	}
}

var anyWord, anyName, anyBrowser = newNeedles(words), newNeedles(names), newNeedles(browsersAndDevices)

// needles are strings that are looked for all at once, by their first two
// bytes.
type needles [256][]string

func newNeedles(all []string) *needles {
	n := new(needles)
	for _, needle := range all {
		i := needleIndex(needle[0], needle[1])
		n[i] = append(n[i], needle)
	}
	return n
}

func needleIndex(first, second byte) byte { return 7*first + second }

// in reports whether any of them is in s.
func (n *needles) in(s string) bool {
	for i := range len(s) - 1 {
		for _, needle := range n[needleIndex(s[i], s[i+1])] {
			if strings.HasPrefix(s[i:], needle) {
				return true
			}
		}
	}
	return false
}

func containsAny(s string, substrings []string) bool {
	for _, substring := range substrings {
		if strings.Contains(s, substring) {
			return true
		}
	}
	return false
}

func hasAnyPrefix(s string, prefixes []string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

func hasAnySuffix(s string, suffixes []string) bool {
	for _, suffix := range suffixes {
		if strings.HasSuffix(s, suffix) {
			return true
		}
	}
	return false
}

// startsWithLetter is for lower-cased strings.
func startsWithLetter(s string) bool {
	return s != "" && 'a' <= s[0] && s[0] <= 'z'
}
