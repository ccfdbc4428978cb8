package tagging

import "fmt"

// said is what trackers other than Kissmetrics are told by one message: of an
// alias, or of a hit, which has both identities where it came along with one.
type said struct {
	alias           bool
	user, anonymous string
}

// clusters are identities, of which some are one person.
type clusters map[string]string

func (p clusters) person(id string) string {
	for p[id] != "" {
		id = p[id]
	}
	return id
}

func (p clusters) merge(a, b string) {
	if a, b = p.person(a), p.person(b); a != b {
		p[a] = b
	}
}

// models are what trackers make of messages, after their documentation: who is
// one person in the end.
var models = map[string]func([]said) clusters{
	// Identity resolution, as of Segment's Unify and RudderStack: identities in
	// one message are one person.
	"segment": func(all []said) clusters {
		p := make(clusters)
		for _, s := range all {
			if s.user != "" && s.anonymous != "" {
				p.merge(s.anonymous, s.user)
			}
		}
		return p
	},
	// $identify merges, unless the anonymous identity's person was identified
	// before. Nothing else does.
	"posthog": func(all []said) clusters {
		p, identified := make(clusters), make(map[string]bool)
		for _, s := range all {
			if from := p.person(s.anonymous); s.alias && !identified[from] {
				p.merge(from, s.user)
				identified[p.person(s.user)] = true
			}
		}
		return p
	},
	// Simplified ID Merge: a device is the first user's that is seen with it.
	"mixpanel": func(all []said) clusters {
		p := make(clusters)
		for _, s := range all {
			if s.user != "" && s.anonymous != "" && p[s.anonymous] == "" {
				p[s.anonymous] = s.user
			}
		}
		return p
	},
	// Original ID Merge: $identify merges, unless the anonymous identity was
	// merged before.
	"mixpanel, original": func(all []said) clusters {
		p := make(clusters)
		for _, s := range all {
			if s.alias && p[s.anonymous] == "" {
				p.merge(s.anonymous, s.user)
			}
		}
		return p
	},
}

// elsewhere says what must not happen at the other trackers, and would.
func (tr *tracker) elsewhere() (wrong []string) {
	for model, of := range models {
		p := of(tr.said)
		for i, name := range names {
			for _, other := range names[:i] {
				if p.person(name) == p.person(other) {
					wrong = append(wrong, fmt.Sprintf("%s: %s and %s are one person", model, name, other))
				}
			}
		}
		first, user := make(map[string]string), make(map[string]bool)
		for _, s := range tr.said {
			user[s.user] = true
			if first[s.anonymous] == "" && s.alias {
				first[s.anonymous] = s.user
			}
		}
		for anonymous, name := range first {
			// Who gives an anonymous identity as a name in a link makes it a
			// user.
			if !user[anonymous] && p.person(anonymous) != p.person(name) {
				wrong = append(wrong, fmt.Sprintf("%s: %s never becomes %s", model, anonymous, name))
			}
		}
		for _, s := range tr.said {
			if !s.alias && s.user != "" && s.anonymous != "" && first[s.anonymous] != s.user {
				wrong = append(wrong, fmt.Sprintf("a hit of %s has the identity %s, which was never aliased to it", s.user, s.anonymous))
			}
		}
	}
	return wrong
}
