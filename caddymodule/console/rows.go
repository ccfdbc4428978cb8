package console

import (
	"cmp"
	"strings"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/live"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// hitRow is a hit as the page shows it.
type hitRow struct {
	ID          string      `json:"id"`
	Time        int64       `json:"time"` // milliseconds since 1970
	Site        string      `json:"site"`
	Event       string      `json:"event,omitempty"`
	Person      string      `json:"person,omitempty"`
	Named       bool        `json:"named,omitempty"`
	Properties  [][2]string `json:"properties,omitempty"`
	More        int         `json:"properties_more,omitempty"` // that aren't listed
	Outcome     string      `json:"outcome"`
	Reason      string      `json:"reason,omitempty"`
	Why         string      `json:"why,omitempty"`
	Dropped     [][2]string `json:"dropped,omitempty"` // tags, and why
	DroppedMore int         `json:"dropped_more,omitempty"`
	Records     []string    `json:"records,omitempty"`
	Answers     []answerRow `json:"answers,omitempty"`
}

// answerRow is how a delivery went.
type answerRow struct {
	Tracker  string `json:"tracker"`
	Kind     string `json:"kind"`
	Outcome  string `json:"outcome"` // taken, unsent, retry or rejected
	Status   int    `json:"status,omitempty"`
	Took     int64  `json:"took"` // milliseconds
	Reason   string `json:"reason,omitempty"`
	Attempts int    `json:"attempts"`
	Time     int64  `json:"time"`
	RetryAt  int64  `json:"retry_at,omitempty"`
	Request  string `json:"request,omitempty"`
}

// previewer is a tracker that shows what it sends for a record, without its
// key.
type previewer interface {
	Preview(r *delivery.Record) string
}

// maxPreview is how much is shown of a request to a tracker, in bytes.
const maxPreview = 4000

func (m masker) rows(rows []live.Row) []hitRow {
	shown := make([]hitRow, len(rows))
	for i := range rows {
		shown[i] = m.row(&rows[i])
	}
	return shown
}

func (m masker) row(row *live.Row) hitRow {
	people := []string{row.Person, row.Tags.Identity}
	person, named := row.Person, row.Named
	if person == "" {
		person, named = row.Tags.Identity, true
	}
	shown := hitRow{
		ID: row.ID, Time: row.Time.UnixMilli(), Site: row.Site, Event: m.text(row.Tags.Event, people...),
		Person: m.person(person), Named: named && person != "", Properties: pairs(m.properties(row.Tags.Properties, people...)), More: row.More,
		Outcome: row.Outcome, Reason: string(row.Reason), DroppedMore: row.Tags.DroppedMore,
	}
	if row.Why != nil {
		shown.Why = row.Why(row.Reason)
	}
	for _, drop := range row.Tags.Dropped {
		shown.Dropped = append(shown.Dropped, [2]string{m.text(drop.Parameter, people...), drop.Reason.Explain()})
	}
	for _, record := range row.Records {
		text := record.Kind.String()
		switch record.Kind {
		case delivery.Alias:
			text += ": " + m.person(record.Person) + " is " + m.person(record.Name)
		case delivery.Event:
			name := m.text(record.Name, people...)
			text += ": " + name
			shown.Event = cmp.Or(shown.Event, name) // of a link without tags
		}
		shown.Records = append(shown.Records, text)
	}
	for _, a := range row.Answers {
		shown.Answers = append(shown.Answers, m.answer(a))
	}
	return shown
}

func (m masker) answer(a live.Answer) answerRow {
	shown := answerRow{
		Tracker: a.To.ID, Kind: a.Record.Kind.String(), Outcome: "taken", Status: a.Status,
		Took: a.Took.Milliseconds(), Reason: m.text(a.Reason), Attempts: a.Attempts, Time: a.Time.UnixMilli(),
	}
	switch a.Outcome {
	case delivery.Done:
		if a.Reason != "" {
			shown.Outcome = "unsent"
			return shown
		}
	case delivery.Retry:
		shown.Outcome, shown.RetryAt = "retry", millis(a.RetryAt)
	case delivery.Dead:
		shown.Outcome = "rejected"
	}
	tracker := a.To.Tracker
	for outer, ok := tracker.(interface{ Unwrap() delivery.Tracker }); ok; outer, ok = tracker.(interface{ Unwrap() delivery.Tracker }) {
		tracker = outer.Unwrap()
	}
	if p, ok := tracker.(previewer); ok {
		// It is the tracker's code: a guest that panics shows nothing.
		_ = delivery.Guard(func() error { shown.Request = p.Preview(m.record(a.Record)); return nil })
		if len(shown.Request) > maxPreview {
			shown.Request = strings.ToValidUTF8(shown.Request[:maxPreview], "")
			a.Cut = true
		}
		if a.Cut {
			shown.Request += "…"
		}
	}
	return shown
}

// millis is a time in milliseconds since 1970; 0 if it is unknown.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func pairs(properties []tagging.Property) (all [][2]string) {
	for _, p := range properties {
		all = append(all, [2]string{p.Name, p.Value})
	}
	return all
}
