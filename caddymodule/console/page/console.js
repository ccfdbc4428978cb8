"use strict";
// What the server sends is a stranger's input. All of it becomes text by
// textContent; nothing is ever read as markup.

const $ = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=token]").content;
const operates = "operate" in document.body.dataset;

// make returns an element. Children are elements or text.
function make(tag, attributes, ...children) {
	const svg = ["svg", "rect"].includes(tag);
	const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
	for (const [name, value] of Object.entries(attributes || {})) {
		if (typeof value === "function") node.addEventListener(name, value);
		else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
	}
	node.append(...children.flat(Infinity).filter((c) => c !== undefined && c !== null && c !== false && c !== ""));
	return node;
}
// stranger is text whose direction must not change what stands around it.
const stranger = (text, attributes) => make("bdi", attributes, text);
const count = (n, one, many) => n.toLocaleString("en") + " " + (n === 1 ? one : many || one + "s");
// say changes a text that is read out, if it is another one.
function say(node, text) {
	if (node.textContent !== text) node.textContent = text;
}

// ---- Talking to the server

const troubles = new Map();
function trouble(what, text) {
	if (text) troubles.set(what, text); else troubles.delete(what);
	$("offline").hidden = troubles.size === 0;
	say($("offline"), [...troubles.values()][0] || "");
}
addEventListener("offline", () => trouble("net", "This device is offline. The page goes on when it is back."));
addEventListener("online", () => trouble("net"));

// ask returns the server's answer, or throws an error whose message can be
// shown.
async function ask(path, form) {
	let response;
	try {
		response = await fetch(path, form && { method: "POST", body: form, headers: { "X-Console-Token": token } });
	} catch {
		throw new Error("The server can't be reached.");
	}
	if (response.ok) return response;
	let text = "";
	try { text = (await response.json()).error || ""; } catch { /* it isn't ours */ }
	if (response.status === 401) text = "Your login has ended: reload the page.";
	throw new Error(text || "The server answered with status " + response.status + ".");
}
const askJSON = async (path, form) => (await ask(path, form)).json();

// ---- The parts of the page

const parts = ["live", "build", "explain", "delivery"];
function showPart() {
	const asked = location.hash.slice(1);
	const current = parts.includes(asked) ? asked : asked === "campaign" ? "build" : parts.includes(document.body.dataset.part) ? document.body.dataset.part : "live";
	for (const part of parts) $(part).hidden = part !== current;
	for (const link of document.querySelectorAll("nav a")) {
		if (link.hash === "#" + current) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
	}
	document.title = $(current + "-title").textContent + " · Tagged URLs console";
	if (current === "delivery") refresh();
}

// ---- Live

const maxRows = 500;
let rows = new Map(); // by id, the oldest first
let shown = new Map(); // the list's items, by id
let left = 0, paused = false, waitingRows = [], stream, again;

const matches = (row) => {
	const site = $("filter-site").value, event = $("filter-event").value.trim().toLowerCase(), outcome = $("filter-outcome").value;
	return (!site || row.site === site) && (!outcome || row.outcome === outcome) && (!event || (row.event || "").toLowerCase().includes(event));
};

function watch() {
	clearTimeout(again);
	if (stream) stream.close();
	const query = new URLSearchParams();
	for (const name of ["site", "event", "outcome"]) {
		const value = $("filter-" + name).value.trim();
		if (value) query.set(name, value);
	}
	stream = new EventSource("live?" + query);
	stream.onopen = () => { trouble("stream"); document.body.dataset.watching = "yes"; status(); };
	stream.addEventListener("hits", (message) => {
		const news = JSON.parse(message.data);
		left += news.left;
		if (paused) waitingRows = waitingRows.concat(news.rows).slice(-maxRows); else take(news.rows);
		status();
	});
	stream.onerror = () => {
		delete document.body.dataset.watching;
		status();
		// A reload ends the stream for a moment: only what lasts is said.
		clearTimeout(again);
		again = setTimeout(() => {
			if (stream.readyState === EventSource.OPEN) return;
			trouble("stream", "The connection is lost. Trying again…");
			if (stream.readyState === EventSource.CLOSED) ask("state").catch((error) => trouble("stream", error.message + " Trying again…"));
			watch(); // an attempt that takes that long may never end
		}, 2000);
	};
}

function take(news) {
	for (const row of news) {
		const known = rows.has(row.id);
		rows.set(row.id, row);
		knowSite(row.site);
		if (matches(row)) draw(row, !known);
	}
	while (rows.size > maxRows) {
		const oldest = rows.keys().next().value;
		rows.delete(oldest);
		if (shown.has(oldest)) shown.get(oldest).remove();
		shown.delete(oldest);
	}
}

function draw(row, fresh) {
	const before = shown.get(row.id);
	const item = hit(row, before && before.firstChild.open, fresh);
	if (before) {
		const focused = before.contains(document.activeElement);
		before.replaceWith(item);
		if (focused) item.querySelector("summary").focus();
	} else {
		$("hits").prepend(item);
	}
	shown.set(row.id, item);
}

function redraw() {
	$("hits").replaceChildren();
	shown = new Map();
	for (const row of rows.values()) if (matches(row)) draw(row, false);
	status();
}

function status() {
	let text = document.body.dataset.watching ? "Watching. " : "Connecting… ";
	text += shown.size === 0 ? "No hit yet." : count(shown.size, "hit") + " shown.";
	if (left) text += " " + left.toLocaleString("en") + " more went by too fast to be shown; a filter finds its own.";
	if (paused) text = "Paused. " + count(waitingRows.length, "hit") + " came or changed since.";
	say($("live-status"), text);
	$("live-empty").hidden = shown.size > 0 || paused;
	$("live-head").hidden = shown.size === 0;
}

const hue = (text) => { let n = 7; for (const c of text) n = (n * 31 + c.codePointAt(0)) % 360; return n; };
function person(name, named) {
	if (!name) return make("span", { class: "props" }, "nobody known");
	const dot = make("span", { class: "dot", "aria-hidden": "true" });
	dot.style.background = "hsl(" + hue(name) + " 60% 50%)";
	return make("span", {}, dot, stranger(name), !named && make("span", { class: "hint" }, " anonymous"));
}
const time = (ms) => new Date(ms).toLocaleTimeString("en-GB");
const more = (n) => n && [make("dt", {}, "and"), make("dd", {}, n.toLocaleString("en") + " more")];
const pair = ([name, value]) => [make("dt", {}, stranger(name)), make("dd", {}, stranger(value))];

function hit(row, open, fresh) {
	const properties = row.properties || [];
	const reason = row.reason ? row.outcome + ": " + row.reason : row.outcome;
	return make("li", {}, make("details", { class: "hit" + (fresh ? " fresh" : ""), open: open || undefined, "data-time": row.time },
		make("summary", {}, make("span", { class: "row" },
			make("span", { class: "time" }, time(row.time)),
			make("span", { class: "badges" }, make("span", { class: "badge " + row.outcome }, reason), delivered(row)),
			make("span", { class: "event clip" }, row.event ? stranger(row.event) : make("span", { class: "hint" }, "no event")),
			make("span", { class: "person clip" }, person(row.person, row.named)),
			make("span", { class: "site clip" }, stranger(row.site)),
			make("span", { class: "props clip" }, properties.map(([name, value], i) => [i ? ", " : "", stranger(name), " = ", stranger(value)])))),
		make("div", { class: "detail" },
			row.why && make("p", { class: "why" }, row.why),
			properties.length > 0 && make("dl", {}, properties.map(pair), more(row.properties_more)),
			row.dropped && make("div", {}, make("h3", {}, "Tags that aren't recorded as they came"),
				make("dl", {}, row.dropped.map(pair), more(row.dropped_more))),
			sent(row))));
}

// delivered is a word on trackers that haven't taken the hit.
function delivered(row) {
	const answers = row.answers || [];
	for (const [outcome, word] of [["rejected", "rejected"], ["retry", "waits"], ["unsent", "not sent"]]) {
		if (answers.some((a) => a.outcome === outcome)) return make("span", { class: "badge " + outcome }, word);
	}
	return "";
}

const outcomes = { taken: "taken", unsent: "not sent", retry: "will be tried again", rejected: "rejected" };
// answered is how a tracker answered, and when.
function answered(answer) {
	if (answer.outcome === "unsent") return [answer.kind, time(answer.time)];
	return [answer.kind, time(answer.time), answer.status && "status " + answer.status, answer.took ? answer.took.toLocaleString("en") + " ms" : "under 1 ms",
		answer.attempts > 1 && "attempt " + answer.attempts].filter(Boolean);
}
function sent(row) {
	if (!row.records) return make("p", { class: "hint" }, "Nothing is sent to trackers.");
	return make("div", {}, make("h3", {}, "Sent to trackers"),
		make("p", { class: "hint" }, "Records: ", row.records.map((record, i) => [i ? "; " : "", stranger(record)])),
		row.answers ? make("ul", { class: "answers" }, row.answers.map((answer) => make("li", {},
			make("p", {}, make("span", { class: "badge " + answer.outcome }, outcomes[answer.outcome]), " ", stranger(answer.tracker),
				make("span", { class: "hint" }, ", " + answered(answer).join(", "))),
			answer.reason && make("p", {}, stranger(answer.reason)),
			answer.retry_at && make("p", { class: "hint" }, "Again at " + time(answer.retry_at) + " or later."),
			answer.request && make("pre", { tabindex: "0", dir: "ltr", role: "group", "aria-label": "Request to " + answer.tracker }, answer.request))))
			: make("p", {}, make("span", { class: "badge waits" }, "waits"), " in the queue, or another node of a fleet delivers it, or its person was forgotten meanwhile."));
}

function knowSite(site) {
	if (![...$("filter-site").options].some((o) => o.value === site) && $("filter-site").length < 300) {
		$("filter-site").append(make("option", { value: site }, site));
	}
}

function startLive() {
	for (const option of document.querySelectorAll("#explain-form option")) if (option.value && option.index) knowSite(option.value);
	let typing;
	const filtered = () => { clearTimeout(typing); typing = setTimeout(() => { left = 0; redraw(); watch(); }, 200); };
	for (const name of ["site", "event", "outcome"]) $("filter-" + name).addEventListener("input", filtered);
	$("filter").addEventListener("submit", (e) => { e.preventDefault(); filtered(); });
	$("pause").addEventListener("click", () => {
		paused = !paused;
		$("pause").setAttribute("aria-pressed", paused);
		if (!paused) { take(waitingRows); waitingRows = []; }
		status();
	});
	$("clear").addEventListener("click", () => { rows = new Map(); waitingRows = []; left = 0; redraw(); });
	addEventListener("pagehide", () => stream.close());
	addEventListener("pageshow", (e) => { if (e.persisted) watch(); });
	// Browsers let pages that aren't seen try again once a minute at most.
	document.addEventListener("visibilitychange", () => { if (!document.hidden && stream.readyState !== EventSource.OPEN) watch(); });
	status();
	watch();
}

// ---- Build

// download saves what the server has made. The link mustn't get into an
// address, where logs and histories would have it.
function download(blob, name) {
	const link = make("a", { href: URL.createObjectURL(blob), download: name });
	link.click();
	setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function startBuild() {
	const form = $("build-form");
	let typing, turn = 0;
	const build = async () => {
		const mine = ++turn;
		if (!form.elements.url.value.trim()) return;
		let answer;
		try { answer = await askJSON("build", new FormData(form)); } catch (error) { answer = { problems: [error.message] }; }
		if (mine === turn) showBuilt(answer);
	};
	form.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(build, 250); });
	form.addEventListener("submit", (e) => { e.preventDefault(); clearTimeout(typing); build(); });
	$("more-properties").addEventListener("click", () => {
		const more = $("properties").querySelector(".pair").cloneNode(true);
		for (const input of more.querySelectorAll("input")) input.value = "";
		$("properties").append(more);
		more.querySelector("input").focus();
	});
	$("campaign").addEventListener("submit", async (e) => {
		e.preventDefault();
		const data = new FormData($("campaign"));
		say($("campaign-status"), "Building…");
		try {
			const response = await ask("campaign", data);
			const blob = await response.blob();
			download(blob, "links.csv");
			say($("campaign-status"), "Done: links.csv is downloaded.");
		} catch (error) {
			say($("campaign-status"), error.message);
		}
	});
}

function showBuilt(answer) {
	const parts = [];
	if (answer.link) {
		const copied = make("span", { class: "hint", role: "status" });
		const copy = async () => {
			try { await navigator.clipboard.writeText(answer.link); say(copied, "Copied."); }
			catch {
				const range = document.createRange();
				range.selectNodeContents(shownLink);
				getSelection().removeAllRanges();
				getSelection().addRange(range);
				say(copied, document.execCommand("copy") ? "Copied." : "The browser doesn't let pages copy here: the link is selected, press Ctrl+C.");
			}
		};
		const shownLink = make("a", { href: answer.link, dir: "ltr", rel: "noreferrer", id: "link" }, answer.link);
		const qr = make("div", { id: "qr" });
		const code = async (format) => {
			const data = new URLSearchParams({ text: answer.link });
			try { return (await ask("qr." + format, data)).blob(); } catch (error) { qr.replaceChildren(make("p", { class: "hint" }, error.message)); }
		};
		const save = (format) => async () => { const blob = await code(format); if (blob) download(blob, "qr." + format); };
		code("svg").then((blob) => {
			if (blob) qr.replaceChildren(make("img", { src: URL.createObjectURL(blob), alt: "QR code of the link", class: "qr" }));
		});
		parts.push(make("h3", {}, "Your link"), make("p", { class: "link" }, shownLink),
			make("p", { class: "buttons" }, make("button", { type: "button", id: "copy", class: "primary", click: copy }, "Copy"),
				make("button", { type: "button", id: "qr-svg", click: save("svg") }, "QR code (SVG)"),
				make("button", { type: "button", id: "qr-png", click: save("png") }, "QR code (PNG)"), copied), qr);
	}
	if (answer.problems) {
		parts.push(make("h3", {}, answer.link ? "Notes" : "What is in the way"),
			make("ul", { class: "problems" }, answer.problems.map((problem) => make("li", {}, stranger(problem)))));
	}
	$("built").replaceChildren(...parts);
}

// ---- Explain

function startExplain() {
	$("explain-form").addEventListener("submit", async (e) => {
		e.preventDefault();
		$("explained").replaceChildren(make("p", { class: "status" }, "Asking…"));
		let answer;
		try { answer = await askJSON("explain", new FormData($("explain-form"))); } catch (error) { answer = { error: error.message }; }
		$("explained").replaceChildren(...(answer.error ? [make("p", { class: "card error" }, stranger(answer.error))]
			: answer.sections.filter((s) => s.lines && s.lines.length).map((s) => make("div", { class: "card" },
				s.title && make("h3", {}, s.title),
				make("dl", {}, s.lines.map((line) => pair([line.label || "", line.text])))))));
	});
}

// ---- Delivery

let polling, letters = { letters: [], more: false }, lettersAre = "";

async function refresh() {
	clearTimeout(polling);
	if ($("delivery").hidden || document.hidden) return;
	try {
		const state = await askJSON("state");
		const dead = JSON.stringify((state.trackers || []).map((t) => [t.id, t.dead_letters]));
		if (dead !== lettersAre) {
			letters = await askJSON("letters");
			lettersAre = dead;
			showLetters();
		}
		showState(state);
		trouble("state");
	} catch (error) {
		trouble("state", error.message + " Trying again…");
	}
	clearTimeout(polling);
	polling = setTimeout(refresh, 2000);
}

const bytes = (n) => {
	for (const unit of ["B", "KiB", "MiB", "GiB"]) {
		if (n < 1024 || unit === "GiB") return (unit === "B" ? n : n.toFixed(1)) + " " + unit;
		n /= 1024;
	}
};
const duration = (s) => s < 60 ? s + " s" : s < 3600 ? Math.floor(s / 60) + " min" : s < 172800 ? Math.floor(s / 3600) + " h" : Math.floor(s / 86400) + " days";
const fact = (label, value) => make("div", {}, make("dt", {}, label), make("dd", {}, value));
// replace shows new children, unless they are the same: what has the focus or
// is being read stays.
function replace(node, children) {
	const next = node.cloneNode(false);
	next.append(...[children].flat());
	if (node.isEqualNode(next)) return;
	const focus = node.contains(document.activeElement) ? document.activeElement.id : "";
	node.replaceChildren(...next.childNodes);
	if (focus && $(focus)) $(focus).focus();
}

function showState(state) {
	const trackers = state.trackers || [], queues = state.queues || [];
	say($("delivery-status"), queues.length === 0 ? "No site uses tagged_urls yet." :
		count(trackers.reduce((n, t) => n + t.records, 0), "record") + " waiting, " + count(trackers.reduce((n, t) => n + t.dead_letters, 0), "dead letter") + ".");
	replace($("queues"), queues.map((q) => make("div", { class: "card" }, make("h3", {}, "Queue ", stranger(q.queue)),
		q.error ? make("p", { class: "error" }, "It takes no hits: ", stranger(q.error)) : make("p", {}, bytes(q.bytes) + (q.max_bytes ? " of " + bytes(q.max_bytes) : "")),
		q.max_bytes ? make("meter", { min: 0, max: q.max_bytes, high: q.max_bytes * .8, value: q.bytes, "aria-label": "The queue's size" }) : "",
		state.cookie_key_error && make("p", { class: "error" }, "Visitors get no cookies, for want of a key: ", stranger(state.cookie_key_error)))));
	replace($("trackers"), trackers.map((t) => {
		const [word, look, why] = !t.configured ? ["not configured", "waits", "What waits is sent if the tracker comes back."]
			: t.disabled ? ["disabled", "waits", t.disabled]
				: t.paused_until ? ["paused", "down", "Again at " + time(Date.parse(t.paused_until)) + ": " + t.last_error]
					: t.last_error ? ["failing", "down", t.last_error] : ["ok", "ok", ""];
		const done = (state.history.deliveries[t.id] || []);
		return make("div", { class: "card" },
			make("div", { class: "bar" }, make("h3", {}, stranger(t.id)), make("span", { class: "badge " + look }, word)),
			why && make("p", {}, stranger(why)),
			make("dl", { class: "facts" }, fact("waiting", t.records.toLocaleString("en")), fact("oldest", t.records ? duration(t.oldest_seconds) : "–"),
				fact("a minute", Math.max(0, done[done.length - 2] || 0).toLocaleString("en")), fact("dead letters", t.dead_letters.toLocaleString("en"))),
			operates && t.records > 0 && make("p", { class: "buttons" }, make("button", { type: "button", class: "small", "data-do": "retry", "data-tracker": t.id, id: "retry " + t.id }, "Deliver now")));
	}));
	const history = state.history;
	const trackerLines = {};
	for (const [name, values] of Object.entries(history.deliveries)) if (trackers.some((t) => t.id === name)) trackerLines[name] = values;
	replace($("charts"), queues.length === 0 ? [] : [
		chart("Hits a minute, by outcome", history, { recorded: history.hits.recorded, skipped: history.hits.skipped, dropped: history.hits.dropped }),
		chart("Deliveries a minute, by tracker", history, trackerLines),
		chart("Oldest waiting, in seconds", history, { "oldest": history.oldest }, true),
	]);
}

// chart draws an hour of minutes as stacked bars.
function chart(title, history, lines, most) {
	const names = Object.keys(lines).filter((name) => lines[name]);
	const minutes = history.oldest.length;
	const sums = Array.from({ length: minutes }, (_, i) => names.reduce((n, name) => n + Math.max(0, lines[name][i]), 0));
	const top = Math.max(1, ...sums);
	const total = (name) => most ? Math.max(0, ...lines[name]) : lines[name].reduce((n, v) => n + Math.max(0, v), 0);
	const summary = names.length ? names.map((name) => name + " " + total(name).toLocaleString("en")).join(", ") : "nothing";
	const bars = [];
	for (let i = 0; i < minutes; i++) {
		let y = 100;
		names.forEach((name, n) => {
			const height = Math.max(0, lines[name][i]) / top * 100;
			if (height <= 0) return;
			y -= height;
			bars.push(make("rect", { class: "c" + n % 6, x: i + .1, y: y.toFixed(1), width: .8, height: height.toFixed(1) }));
		});
	}
	return make("figure", { class: "card" }, make("figcaption", {}, title),
		make("div", { class: "plot" }, make("span", { "aria-hidden": "true" }, top.toLocaleString("en", { notation: "compact" })),
			make("svg", { viewBox: "0 0 " + minutes + " 100", preserveAspectRatio: "none", role: "img", "aria-label": title + ", in the last hour: " + (most ? "at most " : "") + summary }, bars),
			make("span", { "aria-hidden": "true" }, "an hour ago"), make("span", { "aria-hidden": "true" }, "now")),
		make("ul", { class: "legend" }, names.map((name, n) => make("li", {},
			make("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, make("rect", { class: "c" + n % 6, width: 10, height: 10 })), stranger(name), (most ? ", at most " : " ") + total(name).toLocaleString("en")))));
}

function showLetters() {
	const list = letters.letters;
	const button = (what, text, look, tracker, id) => make("button", { type: "button", class: "small " + look, "data-do": what, "data-tracker": tracker, "data-id": id, "aria-label": text + (id ? " the dead letter " + id : " all dead letters") }, text);
	replace($("letters"), make("div", { class: "card" },
		make("div", { class: "bar" }, make("h3", {}, "Dead letters"),
			operates && list.length > 0 && make("p", { class: "buttons" }, button("retry-letters", "Retry all", ""), button("delete-letters", "Delete all", "danger"))),
		list.length === 0 ? make("p", { class: "empty" }, "There are none: trackers took everything so far.") :
			make("ul", { class: "letters" }, list.map((l) => make("li", { class: "card" },
				make("p", {}, make("span", { class: "badge rejected" }, "given up"), " ", stranger(l.reason)),
				make("p", { class: "hint" }, stranger(l.tracker), ", ", l.kind || "record", " of ", stranger(l.site || "a site"), ", ", new Date(l.died).toLocaleString("en-GB"), ", ", count(l.attempts, "attempt")),
				(l.event || l.person) && make("p", {}, l.event && make("strong", {}, stranger(l.event)), l.event && l.person ? " · " : "", l.person && person(l.person, true)),
				l.properties && make("dl", {}, l.properties.map(pair)),
				operates && make("p", { class: "buttons" }, button("retry-letters", "Retry", "", l.tracker, l.id), button("delete-letters", "Delete", "danger", l.tracker, l.id))))),
		letters.more && make("p", { class: "hint" }, "These are the oldest " + list.length + ".")));
}

// sure asks whether to do what can't be undone.
async function sure(question, yes) {
	say($("confirm-text"), question);
	say($("confirm-yes"), yes);
	$("confirm").returnValue = "";
	$("confirm").showModal();
	await new Promise((done) => $("confirm").addEventListener("close", function closed() {
		if ($("confirm").open) return; // it was told late of a question before
		$("confirm").removeEventListener("close", closed);
		done();
	}));
	return $("confirm").returnValue === "yes";
}

async function operate(button) {
	const { do: what, tracker, id } = button.dataset;
	if (what === "delete-letters" && !await sure(id ? "Delete this dead letter for good? It is never delivered then." : "Delete all dead letters for good? They are never delivered then.", "Delete")) return;
	button.disabled = true;
	try {
		const form = new URLSearchParams();
		if (tracker) form.set("tracker", tracker);
		if (id) form.set("id", id);
		await askJSON(what, form);
		lettersAre = "";
		await refresh();
	} catch (error) {
		trouble("operate", error.message);
		setTimeout(() => trouble("operate"), 8000);
	}
	button.disabled = false;
}

async function forget(form) {
	if (!await sure("Forget this person? What waits of them is deleted for good.", "Forget")) return;
	const button = form.querySelector("button");
	button.disabled = true;
	try {
		const receipt = await askJSON("forget", new URLSearchParams(new FormData(form)));
		form.reset();
		replace($("forgotten"), [
			make("p", {}, "Forgotten. " + count(receipt.waiting, "waiting record") + " and " + count(receipt.dead_letters, "dead letter") + " were removed." +
				(receipt.under_way ? " " + count(receipt.under_way, "record") + " may have reached a tracker." : "")),
			make("ul", {}, (receipt.trackers || []).map((t) => make("li", {}, stranger(t.id), ": ", t.ask))),
		]);
		lettersAre = "";
		await refresh();
	} catch (error) {
		replace($("forgotten"), make("p", { class: "error" }, error.message));
	}
	button.disabled = false;
}

function startDelivery() {
	if ($("forget")) $("forget").addEventListener("submit", (e) => {
		e.preventDefault();
		forget(e.target);
	});
	$("delivery").addEventListener("click", (e) => {
		const button = e.target.closest("button[data-do]");
		if (button) operate(button);
	});
	document.addEventListener("visibilitychange", refresh);
}

document.documentElement.classList.add("js");
startLive();
startBuild();
startExplain();
startDelivery();
addEventListener("hashchange", () => { showPart(); $("main").focus(); });
showPart();
