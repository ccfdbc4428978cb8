package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/handler"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// managers are the cookies that consent managers set, taken from browsers. Of
// those that are open source, CookieConsent 3.1.0, Klaro 0.7.22 and
// tarteaucitron 1.34.0 set them in Chromium; django-cookie-consent's is written
// by Python's http.cookies.
var managers = map[string]struct{ accepted, refused, unasked []string }{
	"OneTrust": {
		[]string{
			"OptanonConsent=isGpcEnabled=0&datestamp=Wed+Dec+03+2025+14%3A57%3A50+GMT%2B0530+(India+Standard+Time)&version=202510.2.0&browserGpcFlag=0&isIABGlobal=false&hosts=&consentId=dc39141d-a223-4233-bf44-28d2eb9a7f28&interactionCount=2&isAnonUser=1&landingPath=NotLandingPage&groups=C0001%3A1%2CC0002%3A1%2CC0003%3A1%2CC0004%3A1%2CC0005%3A1&AwaitingReconsent=false&intType=1&geolocation=IN%3BMH",
			"OptanonConsent=isGpcEnabled=0&datestamp=Thu+Mar+14+2024+09%3A14%3A46+GMT%2B0000+(Greenwich+Mean+Time)&version=202310.1.0&browserGpcFlag=0&isIABGlobal=false&hosts=&interactionCount=2&landingPath=NotLandingPage&groups=C0002%3A1%2CC0004%3A0%2CC0001%3A1&AwaitingReconsent=false",
		},
		[]string{"OptanonConsent=isGpcEnabled=0&datestamp=Wed+Dec+03+2025+14%3A57%3A50+GMT%2B0530+(India+Standard+Time)&version=202510.2.0&browserGpcFlag=0&isIABGlobal=false&hosts=&interactionCount=1&isAnonUser=1&landingPath=NotLandingPage&groups=C0001%3A1%2CC0002%3A0%2CC0003%3A0%2CC0004%3A0&intType=2&geolocation=DE%3BBE&AwaitingReconsent=false"},
		[]string{"OptanonConsent=isGpcEnabled=0&datestamp=Wed+Dec+03+2025+14%3A57%3A50+GMT%2B0100+(Central+European+Standard+Time)&version=202510.2.0&isIABGlobal=false&hosts=&interactionCount=0&landingPath=https%3A%2F%2Fexample.com%2F&groups=C0001%3A1%2CC0002%3A0%2CC0003%3A0%2CC0004%3A0"},
	},
	"Cookiebot": {
		[]string{
			"CookieConsent={stamp:%276cM/oZqcGG9XwjaY233NxjKQb+Q5stoA2O6VFtUdMLKxhbXtCgp0xQ==%27%2Cnecessary:true%2Cpreferences:true%2Cstatistics:true%2Cmarketing:true%2Cmethod:%27explicit%27%2Cver:2%2Cutc:1745622155764%2Cregion:%27nz%27}",
			"CookieConsent={stamp:%27-1%27%2Cnecessary:true%2Cpreferences:true%2Cstatistics:true%2Cmarketing:true%2Cmethod:%27implied%27%2Cver:1%2Cutc:1695456095624%2Cregion:%27CN%27}", // no consent is needed there
		},
		[]string{"CookieConsent={stamp:%27G+6rYDfrzwrZItFRfHCbe8iQIFLhMDCgjBS+/Oq/gZe0Lovh65ODgg==%27%2Cnecessary:true%2Cpreferences:false%2Cstatistics:false%2Cmarketing:false%2Cmethod:%27explicit%27%2Cver:1%2Cutc:1705162226478%2Cregion:%27ae%27}"},
		[]string{"", "CookieConsent=0"},
	},
	"CookieConsent 3": {
		[]string{
			"cc_cookie=%7B%22categories%22%3A%5B%22necessary%22%2C%22functionality%22%2C%22analytics%22%2C%22ads%22%5D%2C%22revision%22%3A0%2C%22data%22%3Anull%2C%22consentTimestamp%22%3A%222026-11-27T05%3A21%3A38.531Z%22%2C%22consentId%22%3A%22bf0114f6-31b3-4cae-9004-a59795b899a0%22%2C%22services%22%3A%7B%22necessary%22%3A%5B%5D%2C%22functionality%22%3A%5B%5D%2C%22analytics%22%3A%5B%22matomo%22%5D%2C%22ads%22%3A%5B%5D%7D%2C%22languageCode%22%3A%22en%22%2C%22lastConsentTimestamp%22%3A%222026-11-27T05%3A21%3A38.531Z%22%2C%22expirationTime%22%3A1811481698532%7D",
			"cc_cookie=%7B%22categories%22%3A%5B%22analytics%22%2C%22necessary%22%5D%2C%22revision%22%3A0%2C%22data%22%3Anull%2C%22consentTimestamp%22%3A%222026-11-27T05%3A21%3A42.930Z%22%2C%22consentId%22%3A%22bb6fac13-d83b-476d-9787-fe7c05e7dc28%22%2C%22services%22%3A%7B%22necessary%22%3A%5B%5D%2C%22functionality%22%3A%5B%5D%2C%22analytics%22%3A%5B%22matomo%22%5D%2C%22ads%22%3A%5B%5D%7D%2C%22languageCode%22%3A%22en%22%2C%22lastConsentTimestamp%22%3A%222026-11-27T05%3A21%3A42.930Z%22%2C%22expirationTime%22%3A1811481702931%7D",
			"cc_cookie=%7B%22categories%22%3A%5B%22necessary%22%2C%22analytics%22%5D%2C%22revision%22%3A0%7D",
		},
		// It lists all categories' services.
		[]string{"cc_cookie=%7B%22categories%22%3A%5B%22necessary%22%5D%2C%22revision%22%3A0%2C%22data%22%3Anull%2C%22consentTimestamp%22%3A%222026-11-27T05%3A21%3A55.564Z%22%2C%22consentId%22%3A%2255a65ee0-00a0-4929-9b40-575c62c01cd0%22%2C%22services%22%3A%7B%22necessary%22%3A%5B%5D%2C%22functionality%22%3A%5B%5D%2C%22analytics%22%3A%5B%5D%2C%22ads%22%3A%5B%5D%7D%2C%22languageCode%22%3A%22en%22%2C%22lastConsentTimestamp%22%3A%222026-11-27T05%3A21%3A55.564Z%22%2C%22expirationTime%22%3A1811481715565%7D"},
		[]string{""},
	},
	"Klaro": {
		[]string{"klaro=%7B%22matomo%22%3Atrue%2C%22youtube%22%3Atrue%7D"},
		[]string{"klaro=%7B%22matomo%22%3Afalse%2C%22youtube%22%3Atrue%7D", "klaro=%7B%22matomo%22%3Afalse%2C%22youtube%22%3Afalse%7D"},
		[]string{""},
	},
	"CookieYes": {
		[]string{
			"cookieyes-consent=consentid:d0JFblQ4VkU2MzBZQWNVdjZ5bGZPWXkySUZBeEV0MHE,consent:yes,action:yes,necessary:yes,functional:yes,analytics:yes,performance:yes,advertisement:yes,other:yes",
			"cookieyes-consent=consentid:d0JFblQ4VkU2MzBZQWNVdjZ5bGZPWXkySUZBeEV0MHE%2Cconsent%3Ayes%2Caction%3Ayes%2Cnecessary%3Ayes%2Canalytics%3Ayes%2Cadvertisement%3Ano",
		},
		[]string{"cookieyes-consent=consentid:VUp6TkdYaGtMTU1zdnBEY3c4bDVMRmtvRzkzcmxDUHA,consent:no,action:yes,necessary:yes,analytics:no,advertisement:no,other:no"},
		[]string{
			"cookieyes-consent=consentid:YjZOOUV4T2h6UkFoTUwzM2ZpWGE0SFFpZXZaUXFhMk8,consent:,action:,necessary:,functional:,analytics:,performance:,advertisement:,other:",
			"cookieyes-consent=consentid:d0JFblQ4VkU2MzBZQWNVdjZ5bGZPWXkySUZBeEV0MHE,consent:yes,action:no,necessary:yes,functional:yes,analytics:yes,performance:yes,advertisement:yes,other:yes",
		},
	},
	"django-cookie-consent": {
		[]string{
			`cookie_consent="analytics=2026-11-20T10:00:00.123456+00:00|social=-1"`,
			"cookie_consent=social=-1|analytics=2026-11-20T10:00:00.123456+00:00", // set by its script
		},
		[]string{`cookie_consent="analytics=-1|social=2026-11-20T10:00:00.123456+00:00"`},
		[]string{"", `cookie_consent="social=2026-11-20T10:00:00.123456+00:00"`},
	},
	"Civic Cookie Control": {
		[]string{
			`CookieControl={"necessaryCookies":["UMB*","OpenIdConnect*","ARRAffinity"],"optionalCookies":{"analytics":"accepted","Marketing":"accepted"},"statement":{},"consentDate":1676407618702,"consentExpiry":90,"interactedWith":true,"user":"711856A6-6CBD-42BF-B919-DDE749B2939D"}`,
			`CookieControl=%7B%22necessaryCookies%22%3A%5B%5D%2C%22optionalCookies%22%3A%7B%22analytics%22%3A%22accepted%22%7D%2C%22interactedWith%22%3Atrue%7D`,
		},
		[]string{
			`CookieControl={"necessaryCookies":[],"optionalCookies":{"analytics":"revoked","marketing":"accepted"},"statement":{"shown":true,"updated":"09/07/2020"},"consentDate":1679692845768,"consentExpiry":90,"interactedWith":true,"user":"59D4446B-F49E-43F9-8C6D-3D4CE276C3CE"}`,
			`CookieControl={"necessaryCookies":[],"optionalCookies":{},"statement":{"shown":true,"updated":"09/07/2020"},"consentDate":1679692845768,"consentExpiry":90,"interactedWith":true,"user":"59D4446B-F49E-43F9-8C6D-3D4CE276C3CE"}`,
		},
		[]string{`CookieControl={"necessaryCookies":["CookieControl","_shibsession*"],"optionalCookies":{},"initialState":{"type":"notify"},"statement":{"shown":true,"updated":"6/8/2019"},"consentDate":1568194059618,"consentExpiry":90,"interactedWith":false,"user":"881C4291-7FF5-4D75-A4B2-989577EAA04B"}`},
	},
	"tarteaucitron": {
		[]string{"tarteaucitron=!analytics=true!gtag=true", "tarteaucitron=!gtag=true!youtube=false"},
		[]string{"tarteaucitron=!gtag=false!youtube=true"},
		[]string{"", "tarteaucitron=!googleadwordsconversion=wait!gtag=wait!mautic=wait!facebook=wait"},
	},
}

// TestConsentManagers: the README's lines for them record those who accepted,
// and nobody else.
func TestConsentManagers(t *testing.T) {
	t.Parallel()
	_, blocks := readme(t)
	tried := 0
	for _, block := range blocks {
		for line := range strings.Lines(block) {
			line, name, _ := strings.Cut(line, "#")
			if !strings.HasPrefix(line, "consent ") {
				continue
			}
			name, _, _ = strings.Cut(strings.TrimSpace(name), " (")
			manager, ok := managers[name]
			if !ok {
				t.Errorf("there is no cookie of %s to try its line", name)
				continue
			}
			tried++
			var h handler.Handler
			if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser("tagged_urls KEY {\n" + line + "\n}")); err != nil {
				t.Error(err)
				continue
			}
			for what, cookies := range map[string][]string{"accepted": manager.accepted, "refused": manager.refused, "unasked": manager.unasked} {
				if len(cookies) == 0 {
					t.Errorf("%s: there is no cookie %s", name, what)
				}
				for _, cookie := range cookies {
					header := http.Header{"Cookie": {"_ga=GA1.1.1; " + cookie + "; theme=dark"}}
					if got := (*tagging.Consent)(h.Consent).Given(header); got != (what == "accepted") {
						t.Errorf("%s, %s: given %v by %s", name, what, got, cookie)
					}
				}
			}
		}
	}
	if tried != len(managers) {
		t.Errorf("the README has lines for %d managers, want %d", tried, len(managers))
	}
}
