// Writes landing.json: what a copy of Kissmetrics' JavaScript library records of these navigations. The copy isn't part
// of this repository; it is a script such as https://scripts.kissmetrics.com serves, with its automatic events on.
//
//     node landing.mjs library.js > landing.json
//
// Each story is one browser's navigations. Where this module records something else, the navigation says so (ours: the
// records that take the place of the library's) and why.
import { readFileSync } from "node:fs";
import vm from "node:vm";

const site = "https://example.com";
const search = "https://www.google.com/search?q=red+shoes";
const visited = (url, referrer = "Direct") => ({ event: "Visited Site", properties: { URL: url, Referrer: referrer } });
const from = referrer => ({ properties: { Referrer: referrer } });
const found = (engine, terms) => ({ event: "Search Engine Hit", properties: { "Search Engine": engine, ...(terms && { "Search Terms": terms }) } });
const campaign = properties => ({ event: "Ad Campaign Hit", properties });
const noTerms = "most engines no longer send the terms: the search is recorded without them";
const decoding = "values are decoded as the WHATWG parser does";
const malformed = "the library stops at a malformed escape; " + decoding;
const identity = "no URL is recorded with an identity in it";
const first = (story, url, referrer = "", more = {}) => ({ story, navigations: [{ at: 0, url, referrer, ...more }] });
const known = (story, cookies, more = {}) => ({ story, cookies, navigations: [{ at: 0, url: site + "/", referrer: "", ...more }] });

const stories = [
  // Campaigns.
  first("all five parameters", site + "/offer?utm_source=news&utm_medium=email&utm_campaign=spring&utm_term=shoes&utm_content=top"),
  ...["source", "medium", "campaign", "term", "content"].map(name => first("utm_" + name + " alone", `${site}/?utm_${name}=x`)),
  first("an empty value", site + "/?utm_source=&utm_medium=cpc"),
  first("only empty values", site + "/?utm_source=&utm_medium="),
  first("no value", site + "/?utm_source&utm_medium=cpc"),
  first("no =", site + "/?utm_source"),
  first("a blank value", site + "/?utm_source=+&utm_medium=cpc", "", { ours: [visited(site + "/?utm_source=+&utm_medium=cpc"), campaign({ "Campaign Medium": "cpc", URL: site + "/?utm_source=+&utm_medium=cpc" })], why: "a value of white space says nothing" }),
  first("the last value counts", site + "/?utm_source=a&utm_source=b"),
  first("also if it is empty", site + "/?utm_source=a&utm_source="),
  first("spaces", site + "/?utm_campaign=spring+sale&utm_term=red%20shoes"),
  first("letters beyond ASCII", site + "/?utm_campaign=fr%C3%BChling&utm_term=%E9%9D%B4"),
  first("an encoded name", site + "/?utm%5Fsource=news"),
  first("an encoded &", site + "/?utm_campaign=a%26b%3Dc"),
  first("other names", site + "/?utm_id=1&utm_sourced=2&xutm_source=3&UTM_SOURCE=4&utmsource=5"),
  first("a name in capitals", site + "/?UTM_Source=news&Utm_medium=cpc"),
  first("a fragment", site + "/#utm_source=news", "", { ours: [visited(site + "/")], why: "a fragment never reaches a server" }),
  first("a query and a fragment", site + "/?utm_source=news#top", "", { ours: [visited(site + "/?utm_source=news"), campaign({ "Campaign Source": "news", URL: site + "/?utm_source=news" })], why: "a fragment never reaches a server" }),
  first("a second =", site + "/?utm_source=a=b", "", { ours: [visited(site + "/?utm_source=a=b"), campaign({ "Campaign Source": "a=b", URL: site + "/?utm_source=a=b" })], why: decoding }),
  first("a malformed escape", site + "/?utm_source=100%", "", { ours: [visited(site + "/?utm_source=100%"), campaign({ "Campaign Source": "100%", URL: site + "/?utm_source=100%" })], why: malformed }),
  first("another encoding", site + "/?utm_source=fr%FChling", "", { ours: [visited(site + "/?utm_source=fr%FChling"), campaign({ "Campaign Source": "fr\uFFFDhling", URL: site + "/?utm_source=fr%FChling" })], why: malformed }),
  first("a campaign on another site's link", site + "/?utm_source=partner", "https://partner.example.net/page?x=1"),
  first("an ad of Google's", site + "/?gclid=abc", search),
  first("an ad of Google's without terms", site + "/?gclid=abc", "https://www.google.com/", { ours: [visited(site + "/?gclid=abc", "https://www.google.com/"), from("https://www.google.com/"), campaign({ "Search Engine": "Google" })], why: noTerms }),
  first("an ad of Google's with a campaign", site + "/?utm_source=google&utm_medium=cpc&gclid=abc", search),
  first("an ad of Google's with a campaign, without terms", site + "/?utm_source=google&utm_medium=cpc&gclid=abc", "https://www.google.com/"),
  first("gclid from nowhere", site + "/?gclid=abc"),
  first("gclid from another site", site + "/?gclid=abc", "https://partner.example.net/"),
  first("gclid from another search engine", site + "/?gclid=abc", "https://www.bing.com/search?q=shoes"),
  first("gclid without a value", site + "/?gclid=", search),

  // Searches.
  first("Google", site + "/", search),
  first("Google without www", site + "/", "http://google.com/search?hl=en&q=shoes&ie=UTF-8"),
  first("Google in Australia", site + "/", "https://www.google.com.au/search?q=shoes"),
  first("Google's images", site + "/", "https://images.google.com/imgres?q=shoes"),
  first("Google without terms", site + "/", "https://www.google.com/", { ours: [visited(site + "/", "https://www.google.com/"), from("https://www.google.com/"), found("Google")], why: noTerms }),
  first("Google with empty terms", site + "/", "https://www.google.com/url?sa=t&q=&esrc=s", { ours: [visited(site + "/", "https://www.google.com/url?sa=t&q=&esrc=s"), from("https://www.google.com/url?sa=t&q=&esrc=s"), found("Google")], why: noTerms }),
  first("Google's mail", site + "/", "https://mail.google.com/"),
  first("Google's maps", site + "/", "https://www.google.com/maps/place/x"),
  first("Google in Germany", site + "/", "https://www.google.de/search?q=schuhe"),
  first("Yahoo", site + "/", "https://search.yahoo.com/search?p=shoes&fr=x"),
  first("Yahoo in Britain", site + "/", "https://uk.search.yahoo.com/search?p=shoes"),
  first("Yahoo without terms", site + "/", "https://r.search.yahoo.com/", { ours: [visited(site + "/", "https://r.search.yahoo.com/"), from("https://r.search.yahoo.com/"), found("Yahoo")], why: noTerms }),
  first("Yahoo's portal", site + "/", "https://www.yahoo.com/?p=us"),
  first("Bing", site + "/", "https://www.bing.com/search?q=shoes&form=QBLH"),
  first("Bing without terms", site + "/", "https://www.bing.com/", { ours: [visited(site + "/", "https://www.bing.com/"), from("https://www.bing.com/"), found("Bing")], why: noTerms }),
  first("Ask", site + "/", "https://www.ask.com/web?q=shoes&o=0"),
  first("MSN", site + "/", "http://search.msn.com/results.aspx?q=shoes"),
  first("Live", site + "/", "http://search.live.com/results.aspx?q=shoes"),
  first("AOL", site + "/", "https://search.aol.com/aol/search?query=shoes"),
  first("AOL with another parameter", site + "/", "https://search.aol.com/aol/search?q=shoes"),
  first("Netscape", site + "/", "http://search.netscape.com/search?query=shoes"),
  first("AltaVista", site + "/", "http://www.altavista.com/web/results?q=shoes"),
  first("Lycos", site + "/", "https://search.lycos.com/web/?query=shoes"),
  first("Dogpile", site + "/", "http://www.dogpile.com/dogpile/ws/results/Web/red%20shoes/1/417/TopNavigation/"),
  first("Dogpile with a parameter", site + "/", "https://www.dogpile.com/serp?q=shoes"),
  first("A9", site + "/", "http://a9.com/red%20shoes"),
  first("terms beyond ASCII", site + "/", "https://www.bing.com/search?q=%E9%9D%B4+caf%C3%A9"),
  first("the last terms count", site + "/", "https://www.bing.com/search?q=a&q=b"),
  first("a host in capitals", site + "/", "https://WWW.Google.COM/search?q=shoes"),
  first("a host that only ends so", site + "/", "https://notgoogle.com/?q=shoes", { ours: [visited(site + "/", "https://notgoogle.com/?q=shoes"), from("https://notgoogle.com/?q=shoes")], why: "another domain's host isn't the engine's" }),
  first("a host that only begins so", site + "/", "https://google.com.evil.example/?q=shoes", { ours: [visited(site + "/", "https://google.com.evil.example/?q=shoes"), from("https://google.com.evil.example/?q=shoes")], why: "another domain's host isn't the engine's" }),
  first("terms with a malformed escape", site + "/", "https://www.bing.com/search?q=100%", { ours: [visited(site + "/", "https://www.bing.com/search?q=100%"), from("https://www.bing.com/search?q=100%"), found("Bing", "100%")], why: malformed }),
  first("an engine that the library doesn't know", site + "/", "https://duckduckgo.com/?q=shoes"),

  // Referrers.
  first("from nowhere", site + "/"),
  first("from another site", site + "/", "https://partner.example.net/page?x=1&y=2"),
  first("from the site itself", site + "/next", site + "/offer?x=1"),
  first("from the site with www", site + "/", "https://www.example.com/"),
  first("to the site with www", "https://www.example.com/", "https://example.com/"),
  first("from another subdomain", site + "/", "https://blog.example.com/"),
  first("from another port", site + "/", "https://example.com:8443/"),
  first("to another port", "https://example.com:8443/", "https://example.com/"),
  first("by HTTP", "http://example.com/", "https://example.com/"),
  first("in capitals", site + "/", "https://EXAMPLE.com/page"),
  first("a referrer without a path", site + "/", "https://partner.example.net"),
  first("a referrer's port", site + "/", "https://partner.example.net:8443/"),
  first("an app", site + "/", "android-app://com.google.android.gm/"),
  first("an IP address", "http://192.0.2.1/", "http://192.0.2.2/"),
  first("the site's name as a subdomain", site + "/", "https://example.com.partner.example.net/"),
  first("the site's name as an end", site + "/", "https://myexample.com/"),
  first("a referrer with an identity", site + "/", "https://partner.example.net/?a=1&kmi=jane&b=2", { ours: [visited(site + "/", "https://partner.example.net/?a=1&b=2"), from("https://partner.example.net/?a=1&b=2")], why: identity }),

  // Visits, and who returns.
  { story: "two pages", navigations: [{ at: 0, url: site + "/", referrer: "" }, { at: 60, url: site + "/next", referrer: site + "/" }] },
  { story: "a page after 29 minutes", navigations: [{ at: 0, url: site + "/", referrer: "" }, { at: 1740, url: site + "/next", referrer: site + "/" }] },
  { story: "a page after 30 minutes", navigations: [{ at: 0, url: site + "/", referrer: "" }, { at: 1800, url: site + "/next", referrer: site + "/" }] },
  { story: "back after an hour, twice", navigations: [
    { at: 0, url: site + "/", referrer: search }, { at: 3600, url: site + "/", referrer: "" },
    { at: 3660, url: site + "/next", referrer: site + "/" }, { at: 9000, url: site + "/", referrer: "https://partner.example.net/" }] },
  { story: "a page each 20 minutes", navigations: [0, 1, 2, 3].map(n => ({ at: 1200 * n, url: `${site}/${n}`, referrer: "" })) },
  { story: "a campaign in the middle of a visit", navigations: [{ at: 0, url: site + "/", referrer: "" }, { at: 300, url: site + "/?utm_source=news", referrer: "" }] },
  { story: "a search in the middle of a visit", navigations: [{ at: 0, url: site + "/", referrer: "" }, { at: 300, url: site + "/", referrer: search }] },
  { story: "back by an ad", navigations: [{ at: 0, url: site + "/", referrer: "" }, { at: 7200, url: site + "/?utm_source=google&gclid=x", referrer: search }] },
  known("the library's visit is under way", { km_vs: "1" }),
  known("the library saw a visitor an hour ago", { km_lv: -3600 }),
  known("the library saw a visitor ten minutes ago", { km_lv: -600 }),
  known("the library saw a visitor return", { km_lv: "x" }),
  known("the library knows a name", { km_ni: "jane" }),
  known("Google Analytics has seen several visits", { __utma: "1.2.3.4.5.7" }),
  known("Google Analytics has seen one visit", { __utma: "1.2.3.4.5.1" }),
  known("other cookies", { utma: "1.2.3.4.5.7", xkm_lv: "1" }),

  // Links with tags.
  first("a tagged link", site + "/?kme=Clicked+Link&km_color=teal", "https://mail.example.net/"),
  first("a tagged link with a campaign", site + "/?utm_source=news&kme=Opened&utm_medium=email"),
  first("properties alone", site + "/?km_color=teal"),
  first("a named visitor", site + "/?kme=Opened&kmi=jane&a=1", "", { ours: [{ event: "Opened", properties: {} }, visited(site + "/?kme=Opened&a=1")], why: identity + "; and who is new hasn't returned" }),
];

function run(library, story) {
  const start = 1_600_000_000;
  const jar = new Map(Object.entries(story.cookies ?? {}).map(([name, value]) =>
    [name, { value: String(typeof value === "number" ? start + value : value), until: Infinity }]));
  for (const navigation of story.navigations) {
    const now = (start + navigation.at) * 1000, sent = [], ready = [];
    class Clock extends Date { constructor(...args) { super(...(args.length ? args : [now])); } }
    const url = new URL(navigation.url);
    const document = {
      referrer: navigation.referrer, location: url,
      addEventListener: (_, f) => ready.push(f),
      get cookie() { return [...jar].filter(([, c]) => c.until > now).map(([name, c]) => name + "=" + c.value).join("; "); },
      set cookie(text) {
        const [pair, ...attributes] = text.split("; ");
        const expires = attributes.find(a => a.startsWith("expires="));
        const end = pair.indexOf("=");
        jar.set(pair.slice(0, end), { value: pair.slice(end + 1).replace(/;$/, ""), until: expires ? Date.parse(expires.slice(8).replace(/;$/, "")) : Infinity });
      },
    };
    class Image { set src(u) { sent.push(u); } }
    try {
      vm.runInNewContext(library, { document, Image, Date: Clock, window: {}, navigator: {} });
      ready.forEach(f => f());
    } catch { sent.length = 0; }
    navigation.library = sent.map(u => {
      const { pathname, searchParams } = new URL(u), record = {};
      if (pathname === "/e") record.event = searchParams.get("_n");
      record.properties = Object.fromEntries([...searchParams].filter(([name]) => name[0] !== "_").sort());
      return record;
    });
  }
  return story;
}

const library = readFileSync(process.argv[2], "utf8");
const json = "[\n" + stories.map(story => JSON.stringify(run(library, story))).join(",\n") + "\n]\n";
// As ASCII, so that no tool normalizes what is in it.
process.stdout.write(json.replace(/[\u007f-\uffff]/g, c => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0")));
