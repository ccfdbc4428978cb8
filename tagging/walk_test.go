package tagging

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// CI tries more of what is random than a run by hand does.
var (
	stories        = flag.Int("stories", 500, "how many random stories of visitors to tell")
	damagedQueries = flag.Int("damaged", 100, "how many random damaged queries to read")
)

// TestAnyStory tells random stories of browsers and people, of hosts and nodes,
// of the library, and of strangers who plant and replay cookies. Nobody's names
// are ever connected.
func TestAnyStory(t *testing.T) {
	t.Parallel()
	n := *stories
	aliases := 0
	for seed := range uint64(n) {
		w, log := anyStory(rand.New(rand.NewPCG(seed, 12)), false)
		if wrong := append(w.tracker.wrong, w.tracker.elsewhere()...); len(wrong) > 0 {
			t.Fatalf("story %d:\n%s\n%s", seed, strings.Join(wrong, "\n"), strings.Join(log, "\n"))
		}
		aliases += len(w.tracker.sent)
	}
	if aliases < n {
		t.Errorf("%d aliases in %d stories: hardly anything has happened", aliases, n)
	}
}

// The stories are such that a memory which forgets is noticed.
func TestStoriesNotice(t *testing.T) {
	t.Parallel()
	for seed := range uint64(1000) {
		if w, _ := anyStory(rand.New(rand.NewPCG(seed, 12)), true); len(w.tracker.wrong) > 0 {
			return
		}
	}
	t.Error("aliases are forgotten, and no story has two names in one person")
}

func anyStory(random *rand.Rand, careless bool) (w *world, log []string) {
	w = newWorld()
	if random.IntN(2) == 0 { // each node has a queue of its own
		w.forget(1)
	}
	w.shared = random.IntN(4)
	for _, m := range w.nodes {
		m.careless = careless
	}
	chance := func(one int) bool { return random.IntN(one) == 0 }
	pick := func(all []string) string { return all[random.IntN(len(all))] }
	browsers := []*browser{newBrowser(), newBrowser(), newBrowser()}

	// What is left of the former version: identities that it has aliased, and
	// cookies from before and after that.
	identity := anonymousEncoding.EncodeToString([]byte("the former one's"))
	name := pick(names)
	w.tracker.alias(identity, name)
	w.issued = append(w.issued, formerSeal(w.keys, "1", identity, domain),
		formerSeal(w.keys, "2", strings.Repeat(name[:1], formerClaim)+identity, domain),
		formerSeal(w.keys, "1", fmt.Sprintf("%027d=", 1), domain))
	if chance(2) {
		browsers[0].jar[Scope{Name: domain}] = pick(w.issued)
	}

	var open []request
	recorded := []string{fmt.Sprintf("%027d=", 1), fmt.Sprintf("%027d=", 2)} // identities, which may be in links too
	respond := func(i int) {
		r := open[i]
		open = slices.Delete(open, i, i+1)
		o := []outcome{taken, taken, taken, refused, inDoubt}[random.IntN(5)]
		log = append(log, fmt.Sprintf("answered: %s, %v", r.person.ID, o))
		w.respond(r, o)
		recorded = append(recorded, r.person.ID)
		if b := r.browser; b.library && !r.part {
			w.load(b)
			if r.kmi != "" && chance(2) { // else the site redirects
				w.identify(b, r.kmi)
			}
		}
	}
	for range 30 {
		w.now = w.now.Add(time.Duration(random.IntN(1000)) * time.Millisecond)
		n := random.IntN(len(browsers))
		b := browsers[n]
		switch random.IntN(16) {
		default:
			v := visit{
				host: []*host{w.www, w.shop}[random.IntN(2)], node: random.IntN(2),
				part: chance(8), foreign: chance(6), noAlias: chance(20), bare: chance(4),
			}
			switch random.IntN(8) {
			case 0, 1, 2:
				v.kmi = pick(names)
			case 3:
				v.kmi = pick(recorded)
			}
			for len(w.issued) > 0 && chance(5) {
				v.planted = append(v.planted, pick(w.issued))
			}
			open = append(open, w.request(b, v))
			log = append(log, fmt.Sprintf("%d: %+v is %+v", n, v, open[len(open)-1].person))
			if chance(2) {
				respond(len(open) - 1)
			}
		case 0, 1, 2:
			if len(open) > 0 {
				respond(random.IntN(len(open)))
			}
		case 3:
			b.library = true
			log = append(log, fmt.Sprintf("%d: the library comes", n))
		case 4:
			if b.library {
				name := pick(names)
				w.identify(b, name)
				log = append(log, fmt.Sprintf("%d: %s logs in by %s", n, name, b.libraryAnonymous))
			}
		case 5:
			w.logOut(b)
			log = append(log, fmt.Sprintf("%d: logs out", n))
		case 6:
			if chance(2) {
				clear(b.jar)
			} else {
				browsers[n] = newBrowser()
			}
			log = append(log, fmt.Sprintf("%d: cookies go", n))
		case 7:
			switch node := random.IntN(2); random.IntN(3) {
			case 0:
				w.nodes[node].evict()
				log = append(log, fmt.Sprintf("node %d forgets the older half", node))
			case 1:
				w.forget(node)
				w.nodes[node].careless = careless
				log = append(log, fmt.Sprintf("node %d loses its queue", node))
			default:
				h := []*host{w.www, w.shop}[random.IntN(2)]
				h.domain = !h.domain
				log = append(log, fmt.Sprintf("%+v", *h))
			}
		}
	}
	for len(open) > 0 {
		respond(len(open) - 1)
	}
	return w, log
}
