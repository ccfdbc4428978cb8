package scanners_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/scanners"
)

var (
	start    = time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
	defaults = scanners.Rules{
		Links:  scanners.Limit{N: 3, Window: 10 * time.Second},
		People: scanners.Limit{N: 15, Window: 10 * time.Second},
	}
)

// world is a memory and what it has been told.
type world struct {
	*scanners.Memory
	rules scanners.Rules
	now   time.Time
	told  map[int]scanners.Verdict
}

func newWorld(rules scanners.Rules) *world {
	return &world{Memory: scanners.New(1000), rules: rules, now: start, told: make(map[int]scanners.Verdict)}
}

func record(n int) scanners.Key { return scanners.Key(n + 1) }

// visit is a step of a story: what happens after so many milliseconds.
type visit struct {
	after                      int // ms since the start
	person, link, client, conn uint64
	multiplexed                bool
	took                       int    // ms until the answer; 0: 1 ms, below: never
	brings                     uint64 // our cookie, which the answer to link brings-1 has set
	opensDecoy                 bool
}

func (w *world) tell(n int, v visit) {
	w.now = start.Add(time.Duration(v.after) * time.Millisecond)
	says := scanners.Visit{Record: record(n), At: w.now, Person: v.person, Link: v.link, Client: v.client, Conn: v.conn, Multiplexed: v.multiplexed}
	switch {
	case v.opensDecoy:
		w.Opened(w.now, v.client)
	case v.brings != 0:
		w.Returned(w.now, says, v.brings, w.rules)
	default:
		w.Note(w.now, says, w.rules)
		w.Await(w.now, says.Record, func(v scanners.Verdict) { w.told[n] = v })
	}
}

// play tells a story, answers in between, and returns the verdicts once all
// windows are over: those that are told, which those of the records must equal.
func (w *world) play(t *testing.T, story []visit) (verdicts []string) {
	t.Helper()
	type event struct {
		at int
		do func()
	}
	var events []event
	for n, v := range story {
		events = append(events, event{v.after * 1000, func() { w.tell(n, v) }})
		if v.brings != 0 || v.opensDecoy || v.took < 0 {
			continue
		}
		if v.took == 0 {
			v.took = 1
		}
		events = append(events, event{(v.after+v.took)*1000 - 1, func() {
			w.now = start.Add(time.Duration((v.after+v.took)*1000-1) * time.Microsecond)
			w.Answered(w.now, record(n), uint64(n)+1)
		}})
	}
	slices.SortStableFunc(events, func(a, b event) int { return a.at - b.at })
	for _, e := range events {
		e.do()
	}
	w.now = w.now.Add(w.rules.Wait())
	w.Expire(w.now)
	for n, v := range story {
		if v.brings != 0 || v.opensDecoy {
			continue
		}
		told, ok := w.told[n]
		if judged := w.Judge(w.now, record(n)); !ok || judged.Verdict != told || judged.Drop != (w.rules.Drop && told != 0) {
			t.Errorf("visit %d: told %v (%v), judged %+v", n, told, ok, judged)
		}
		verdicts = append(verdicts, told.String())
	}
	return verdicts
}

func repeat(word string, n int) []string { return slices.Repeat([]string{word}, n) }

// spread makes n visits, so many milliseconds apart, and has each changed.
func spread(n, apart int, change func(i int, v *visit)) (story []visit) {
	for i := range n {
		v := visit{after: i * apart, person: 1, link: uint64(i) + 1, client: 1}
		if change != nil {
			change(i, &v)
		}
		story = append(story, v)
	}
	return story
}

func TestLinks(t *testing.T) {
	t.Parallel()
	none := func(n int) []string { return repeat("", n) }
	all := func(n int) []string { return repeat("links", n) }
	for name, test := range map[string]struct {
		story []visit
		want  []string
	}{
		"eight strangers":                                  {spread(8, 375, nil), all(8)},
		"two":                                              {spread(2, 375, nil), none(2)},
		"one link, ever again":                             {spread(8, 375, func(i int, v *visit) { v.link = 7 }), none(8)},
		"a repeat is marked along":                         {spread(4, 100, func(i int, v *visit) { v.link = []uint64{1, 1, 2, 3}[i] }), all(4)},
		"eight people":                                     {spread(8, 375, func(i int, v *visit) { v.person = uint64(i) + 1 }), none(8)},
		"each from another client":                         {spread(3, 100, func(i int, v *visit) { v.client = uint64(i) + 1 }), all(3)},
		"without addresses":                                {spread(3, 100, func(i int, v *visit) { v.client = 0 }), all(3)},
		"just within the window":                           {[]visit{{0, 1, 1, 1, 0, false, 0, 0, false}, {5000, 1, 2, 1, 0, false, 0, 0, false}, {9999, 1, 3, 1, 0, false, 0, 0, false}}, all(3)},
		"just over the window":                             {[]visit{{0, 1, 1, 1, 0, false, 0, 0, false}, {5000, 1, 2, 1, 0, false, 0, 0, false}, {10000, 1, 3, 1, 0, false, 0, 0, false}}, none(3)},
		"slowly, but all the time":                         {spread(8, 4500, nil), all(8)},
		"too slowly":                                       {spread(8, 5000, nil), none(8)},
		"tabs at once, no cookie yet":                      {spread(5, 1, func(i int, v *visit) { v.took, v.conn = 100, uint64(i)+1 }), none(5)},
		"tabs, and nothing returns for a round trip":       {spread(8, 40, func(i int, v *visit) { v.took, v.conn, v.multiplexed = 10, 1, true }), none(8)},
		"one connection, but no cookie for seconds":        {spread(8, 400, func(i int, v *visit) { v.conn, v.multiplexed = 1, true }), all(8)},
		"one connection of HTTP/1 and no cookie":           {spread(8, 4, func(i int, v *visit) { v.conn = 1 }), all(8)},
		"browsers at once, each has a connection":          {spread(8, 1, func(i int, v *visit) { v.took, v.conn, v.multiplexed = 500, uint64(i)+1, true }), all(8)},
		"more connections than a browser has":              {spread(8, 1, func(i int, v *visit) { v.took, v.conn = 500, uint64(i)+1 }), all(8)},
		"at once, from several addresses":                  {spread(3, 1, func(i int, v *visit) { v.took, v.client = 500, uint64(i)+1 }), all(3)},
		"at once through a proxy, nobody knows":            {spread(8, 1, func(i int, v *visit) { v.took = 500 }), none(8)},
		"answers that set no cookie say nothing":           {spread(8, 300, func(i int, v *visit) { v.took = -1 }), none(8)},
		"the first three tabs before the cookie came":      {append(spread(3, 40, nil), visit{after: 120, person: 1, link: 4, client: 1, brings: 3}), none(3)},
		"the cookie comes before a tab that was late":      {append([]visit{{after: 0, person: 1, link: 1, client: 1}, {after: 30, person: 1, link: 2, client: 1, brings: 1}}, visit{after: 31, person: 1, link: 3, client: 1}, visit{after: 40, person: 1, link: 4, client: 1}, visit{after: 45, person: 1, link: 5, client: 1}), none(4)},
		"a browser that knew the person before":            {append(spread(3, 40, nil), visit{after: 120, person: 1, link: 4, client: 1, brings: 99}), none(3)},
		"another one's cookie says nothing":                {append(spread(3, 40, nil), visit{after: 120, person: 1, link: 4, client: 2, brings: 99}), all(3)},
		"a cookie comes back by another address":           {append(spread(3, 40, nil), visit{after: 120, person: 1, link: 4, client: 2, brings: 2}), none(3)},
		"without addresses, and the cookie comes back":     {append(spread(3, 40, func(i int, v *visit) { v.client = 0 }), visit{after: 120, person: 1, link: 4, brings: 2}), none(3)},
		"without addresses, known before":                  {append(spread(3, 40, func(i int, v *visit) { v.client = 0 }), visit{after: 120, person: 1, link: 4, brings: 99}), none(3)},
		"without addresses, somebody else's cookie":        {append(spread(3, 40, func(i int, v *visit) { v.client = 0 }), visit{after: 120, person: 2, link: 4, brings: 99}), all(3)},
		"scanners reload a link":                           {append(spread(3, 40, nil), visit{after: 120, person: 1, link: 2, client: 1, brings: 2}), all(3)},
		"two mail programs":                                {spread(2, 100, func(i int, v *visit) { v.client = uint64(i) + 1 }), none(2)},
		"two mail programs, one of them with tabs":         {append(spread(3, 40, func(i int, v *visit) { v.client = uint64(i/2) + 1 }), visit{after: 120, person: 1, link: 4, client: 1, brings: 2}), none(3)},
		"a scanner, and the person with a browser of them": {append(spread(3, 40, nil), visit{after: 130, person: 1, link: 4, client: 2}, visit{after: 500, person: 1, link: 5, client: 2, brings: 4}), append(all(3), "")},
		"a scanner, and the person's first click":          {append(spread(3, 40, nil), visit{after: 130, person: 1, link: 2, client: 2}), append(all(3), "")},
		"several scanners":                                 {spread(6, 100, func(i int, v *visit) { v.client = []uint64{1, 1, 1, 2, 3, 4}[i] }), all(6)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := newWorld(defaults).play(t, test.story); !slices.Equal(got, test.want) {
				t.Errorf("verdicts %q, want %q", got, test.want)
			}
		})
	}
}

func TestPeople(t *testing.T) {
	t.Parallel()
	people := func(n, apart int, change func(i int, v *visit)) []visit {
		return spread(n, apart, func(i int, v *visit) {
			v.person, v.link = uint64(i)+1, 1
			if change != nil {
				change(i, v)
			}
		})
	}
	for name, test := range map[string]struct {
		story []visit
		want  []string
	}{
		"a gateway, the first fourteen too": {people(40, 60, nil), repeat("people", 40)},
		"fourteen":                          {people(14, 60, nil), repeat("", 14)},
		"fifteen just within the window":    {people(15, 714, nil), repeat("people", 15)},
		"fifteen just over the window":      {people(15, 715, nil), repeat("", 15)},
		"an office during an hour":          {people(200, 3000, nil), repeat("", 200)},
		"different clients":                 {people(40, 60, func(i int, v *visit) { v.client = uint64(i) + 1 }), repeat("", 40)},
		"without an address":                {people(40, 60, func(i int, v *visit) { v.client = 0 }), repeat("", 40)},
		"one person":                        {people(40, 200, func(i int, v *visit) { v.person = 1 }), repeat("", 40)},
		"all with cookies":                  {people(40, 60, func(i int, v *visit) { v.brings = 99 }), nil},
		"at once":                           {people(15, 0, func(i int, v *visit) { v.took = 5000 }), repeat("people", 15)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := newWorld(defaults).play(t, test.story); !slices.Equal(got, test.want) {
				t.Errorf("verdicts %q, want %q", got, test.want)
			}
		})
	}
}

func TestDecoy(t *testing.T) {
	t.Parallel()
	rules := defaults
	rules.Decoy, rules.Drop = true, true
	if rules.Wait() != 20*time.Second {
		t.Errorf("waits %v, want 20s", rules.Wait())
	}
	for name, test := range map[string]struct {
		story []visit
		want  []string
	}{
		"the last link": {append(spread(2, 100, nil), visit{after: 19_000, client: 1, opensDecoy: true}), repeat("decoy", 2)},
		"too late":      {append(spread(2, 100, nil), visit{after: 20_100, client: 1, opensDecoy: true}), repeat("", 2)},
		"somebody else": {append(spread(2, 100, nil), visit{after: 300, client: 2, opensDecoy: true}), repeat("", 2)},
		"unknown":       {append(spread(2, 100, func(i int, v *visit) { v.client = 0 }), visit{after: 300, opensDecoy: true}), repeat("", 2)},
		"before":        {[]visit{{after: 0, client: 1, opensDecoy: true}, {after: 899_999, person: 1, link: 1, client: 1}, {after: 900_000, person: 1, link: 2, client: 1}}, []string{"decoy", ""}},
		"surer":         {append(spread(3, 100, nil), visit{after: 1000, client: 1, opensDecoy: true}), repeat("decoy", 3)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := newWorld(rules).play(t, test.story); !slices.Equal(got, test.want) {
				t.Errorf("verdicts %q, want %q", got, test.want)
			}
		})
	}
	w := newWorld(rules)
	w.Opened(start, 7)
	if w.Decoyed(start, 8) || !w.Decoyed(start.Add(scanners.DecoyFor-1), 7) || w.Decoyed(start.Add(scanners.DecoyFor), 7) || w.Decoyed(start, 0) {
		t.Error("a client that opened a decoy isn't known for 15 minutes, or another one is")
	}
}

// A browser that gets each answer before it asks for the next link is never a
// scanner, nor are its tabs once one of them has brought the cookie. One that
// keeps nothing is, from the third link on, whatever goes on around it.
func TestAnyInterleaving(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 16))
		var story []visit
		kinds := make(map[uint64]string)
		for who := range uint64(6) {
			client, kind := random.Uint64N(3)+1, []string{"browser", "tabs", "scanner"}[random.IntN(3)]
			kinds[who+1] = kind
			at := random.IntN(2000)
			links := random.IntN(6) + 3
			for i := range links {
				v := visit{after: at, person: who + 1, link: uint64(i) + 1, client: 100*client + who, took: random.IntN(20) + 1}
				switch {
				case kind == "scanner":
					at += v.took + random.IntN(400)
				case kind == "browser" && i > 0, kind == "tabs" && i == links-1:
					v.brings = 1_000_000 + who // older than all
					at += random.IntN(400)
				default:
					at += random.IntN(30)
				}
				story = append(story, v)
			}
		}
		w := newWorld(defaults)
		w.play(t, story)
		for n, v := range story {
			want := map[string]string{"scanner": "links"}[kinds[v.person]]
			if got := w.told[n].String(); v.brings == 0 && got != want {
				t.Fatalf("seed %d: visit %+v of a %s: %q, want %q", seed, v, kinds[v.person], got, want)
			}
			if v.brings != 0 && w.Judge(w.now, record(n)) != (scanners.Judgement{}) {
				t.Fatalf("seed %d: a visit that brought our cookie was judged", seed)
			}
		}
	}
}

// A full memory judges the oldest by what it knows, tells of each once, and
// keeps nothing for longer.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const size, n = 100, 1000
	m, told := scanners.New(size), make(map[int]int)
	for i := range n {
		m.Note(start, scanners.Visit{Record: record(i), At: start, Person: uint64(i) + 1, Link: 1, Client: 1}, defaults)
		m.Await(start, record(i), func(scanners.Verdict) { told[i]++ })
	}
	m.Expire(start)
	if len(told) != n-size {
		t.Errorf("%d were judged early, want %d", len(told), n-size)
	}
	m.Expire(start.Add(10 * time.Second))
	if len(told) != n || slices.Max(slices.Collect(maps.Values(told))) != 1 {
		t.Errorf("%d of %d were told of, or one several times", len(told), n)
	}
	scannersKnown := 0
	for i := range n {
		if m.Judge(start, record(i)).Verdict == scanners.People {
			scannersKnown++
		}
	}
	if scannersKnown != size {
		t.Errorf("%d verdicts are known, want %d", scannersKnown, size)
	}
}

// Three nodes that tell each other what they see judge alike, whoever is asked.
func TestFleet(t *testing.T) {
	t.Parallel()
	var nodes []*scanners.Memory
	for range 3 {
		nodes = append(nodes, scanners.New(100))
	}
	for _, from := range nodes {
		from.Tell(func(b []byte) {
			for _, to := range nodes { // also the one that told it
				if err := to.Hear(start, b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	rules := defaults
	rules.Drop = true
	told := 0
	for i := range 6 {
		v := scanners.Visit{Record: record(i), At: start.Add(time.Duration(i) * 100 * time.Millisecond), Person: 1, Link: uint64(i) + 1, Client: 1}
		nodes[i%3].Note(v.At, v, rules)
		nodes[i%3].Await(v.At, v.Record, func(got scanners.Verdict) {
			if told++; got != scanners.Links {
				t.Errorf("visit %d: %v", i, got)
			}
		})
		nodes[i%3].Answered(v.At.Add(time.Millisecond), v.Record, uint64(i)+1)
	}
	nodes[0].Opened(start, 5)
	for _, m := range nodes {
		for i := range 6 {
			if got := m.Judge(start.Add(10200*time.Millisecond), record(i)); got != (scanners.Judgement{Verdict: scanners.Links, Drop: true}) {
				t.Errorf("visit %d: judged %+v", i, got)
			}
		}
		if !m.Decoyed(start, 5) {
			t.Error("a node doesn't know who opened the decoy")
		}
		m.Expire(start.Add(time.Minute))
	}
	if told != 6 {
		t.Errorf("told of %d, want 6", told)
	}
}

func FuzzHear(f *testing.F) {
	var messages [][]byte
	m := scanners.New(8)
	m.Tell(func(b []byte) { messages = append(messages, b) })
	m.Note(start, scanners.Visit{Record: record(1), At: start, Person: 1, Link: 2, Client: 3}, defaults)
	m.Answered(start, record(1), 4)
	m.Returned(start, scanners.Visit{At: start, Person: 1, Link: 3, Client: 3}, 4, defaults)
	m.Opened(start, 3)
	for _, b := range messages {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := scanners.New(4)
		for i := range 6 {
			_ = m.Hear(start.Add(time.Duration(i)*time.Second), append([]byte(nil), b...))
			m.Note(start, scanners.Visit{Record: record(i), At: start, Person: 1, Link: uint64(i) + 1, Client: 1}, defaults)
		}
		m.Expire(start.Add(scanners.MaxWait + time.Hour))
	})
}

func BenchmarkNote(b *testing.B) {
	m := scanners.New(scanners.DefaultSize)
	now := start
	for i := range b.N {
		now = now.Add(time.Millisecond)
		v := scanners.Visit{Record: record(i), At: now, Person: uint64(i/2) + 1, Link: uint64(i%2) + 1, Client: uint64(i/20) + 1}
		m.Note(now, v, defaults)
		m.Answered(now, v.Record, uint64(i)+1)
	}
}

// TestAwaitLate: who asks when all is over is told, too.
func TestAwaitLate(t *testing.T) {
	t.Parallel()
	w := newWorld(defaults)
	w.play(t, spread(3, 100, nil))
	told := make(map[scanners.Key]scanners.Verdict)
	for n := range 4 { // of which nobody knows the last
		w.Await(w.now, record(n), func(v scanners.Verdict) { told[record(n)] = v })
	}
	if len(told) > 0 {
		t.Error("it was told at once, where a visitor may wait")
	}
	w.Expire(w.now)
	w.Expire(w.now)
	want := map[scanners.Key]scanners.Verdict{record(0): scanners.Links, record(1): scanners.Links, record(2): scanners.Links, record(3): scanners.Person}
	if !maps.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}
