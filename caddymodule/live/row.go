package live

import (
	"slices"
	"strings"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

const (
	// MaxValue is how much is to be shown of a property's value, in bytes. Of a
	// longer one a byte more is kept, to tell.
	MaxValue = 1000
	// maxProperties bounds the properties that are kept of a hit, in bytes.
	maxProperties = 4 << 10
	// maxAnswers bounds the answers that are kept of a hit.
	maxAnswers = 32
)

// Hit is what became of a tagged request.
type Hit struct {
	Time time.Time
	Site string // the request's Host, without a port
	// Tags are what the link says. Rows don't have all of large ones: More is
	// how many properties are missing.
	Tags tagging.Tags
	More int
	// Person is whom it was recorded for, or would have been; "" if that wasn't
	// asked. Named is as in [delivery.Record].
	Person string
	Named  bool
	// Outcome is recorded, skipped or dropped, and Reason says in one word why.
	Outcome string
	Reason  tagging.Reason
	// Why explains the reason; nil if there is none.
	Why func(tagging.Reason) string
	// Records are what is sent to trackers. Rows have them without properties,
	// which are among the tags.
	Records []*delivery.Record
}

// clone returns a copy that doesn't keep the request: its strings may be parts
// of a long query.
func (h *Hit) clone() Hit {
	c := *h
	c.Site, c.Person = strings.Clone(h.Site), strings.Clone(h.Person)
	c.Tags.Event, c.Tags.Identity = strings.Clone(h.Tags.Event), strings.Clone(h.Tags.Identity)
	c.Tags.Properties, c.More = some(h.Tags.Properties)
	c.Tags.Dropped = slices.Clone(h.Tags.Dropped)
	for i, drop := range c.Tags.Dropped {
		c.Tags.Dropped[i].Parameter = strings.Clone(drop.Parameter)
	}
	c.Records = make([]*delivery.Record, len(h.Records))
	for i, r := range h.Records {
		c.Records[i] = &delivery.Record{
			ID: r.ID, Kind: r.Kind, Person: strings.Clone(r.Person), Name: strings.Clone(r.Name), Named: r.Named,
		}
	}
	return c
}

// some copies as many properties as are kept, and returns how many aren't.
func some(all []tagging.Property) (kept []tagging.Property, more int) {
	room := maxProperties
	for i, p := range all {
		p.Value = p.Value[:min(len(p.Value), MaxValue+1)]
		if room -= len(p.Name) + len(p.Value); room < 0 {
			return kept, len(all) - i
		}
		kept = append(kept, tagging.Property{Name: strings.Clone(p.Name), Value: strings.Clone(p.Value)})
	}
	return kept, 0
}

// Answer is how a delivery of one of a hit's records ended.
type Answer struct {
	Time time.Time
	To   delivery.Destination
	// Record is as the tracker got it, but for what is missing of a large one.
	Record   *delivery.Record
	Cut      bool
	Outcome  delivery.Outcome
	Attempts int // with this one
	Status   int // HTTP's, or 0
	Took     time.Duration
	// Reason is what was wrong, or why a record that is done wasn't sent.
	Reason  string
	RetryAt time.Time // of an outcome that isn't final
}

// cut drops of a large record what isn't kept.
func (a *Answer) cut() {
	bytes := 0
	for _, p := range a.Record.Properties {
		bytes += len(p.Name) + len(p.Value)
	}
	if bytes <= maxProperties {
		return
	}
	short := *a.Record
	short.Properties, _ = some(short.Properties)
	a.Record, a.Cut = &short, true
}

// Row is a hit, and what trackers have answered so far.
type Row struct {
	// ID is unique over restarts of the process, too.
	ID string
	Hit
	Answers []Answer
}

// viewers is a set of those who watch, a bit for each.
type viewers uint32

// row is a row as the hub keeps it.
type row struct {
	Row
	number  uint64  // counts the hits that were kept
	changed uint64  // when it last changed, by the hub's count of changes
	of      viewers // who gets it
	ungiven viewers // who hasn't got it yet
}

// answer notes an answer, in place of the same tracker's last one. The slice is
// a new one each time: viewers may be reading the old.
func (r *row) answer(a Answer) {
	answers := slices.Clone(r.Answers)
	i := slices.IndexFunc(answers, func(before Answer) bool {
		return before.To.ID == a.To.ID && before.Record.ID == a.Record.ID
	})
	switch {
	case i >= 0:
		answers[i] = a
	case len(answers) < maxAnswers:
		answers = append(answers, a)
	}
	r.Answers = answers
}
