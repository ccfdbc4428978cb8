package forgetting

import (
	"context"
	"errors"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// Match returns what tells the records of people who are on the list: by their
// names, and by anonymous identities that it has seen become theirs. What was
// seen counts from the next call on.
func (l *List) Match() func(*delivery.Record) bool {
	anonymous := make(map[string]bool)
	return func(r *delivery.Record) bool {
		switch {
		case r.Kind == delivery.Alias && l.Has(r.Name):
			anonymous[r.Person] = true
			return true
		case l.Has(r.Person):
			if r.Anonymous != "" {
				anonymous[r.Anonymous] = true
			}
			return true
		}
		return anonymous[r.Person]
	}
}

// Tracker delivers no record of somebody who is on the list: what was taken from
// the queue, or put there by who didn't know yet.
type Tracker struct {
	delivery.Tracker
	List *List
}

// Unwrap returns the tracker itself.
func (t Tracker) Unwrap() delivery.Tracker { return t.Tracker }

// BatchSize implements delivery.Batcher for trackers that do.
func (t Tracker) BatchSize() int {
	if batcher, ok := t.Tracker.(delivery.Batcher); ok {
		return batcher.BatchSize()
	}
	return 1
}

// Deliver implements delivery.Tracker. What it doesn't deliver, and what can't
// be, counts as delivered: so it is gone.
func (t Tracker) Deliver(ctx context.Context, records []*delivery.Record) error {
	if t.List.Generation() == 0 {
		return t.Tracker.Deliver(ctx, records)
	}
	kept := make([]*delivery.Record, 0, len(records))
	for _, r := range records {
		if !t.List.of(r) {
			kept = append(kept, r)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	err := t.Tracker.Deliver(ctx, kept)
	if err == nil || len(kept) == len(records) {
		return err
	}
	// Those that were kept have the answer, the others none.
	var each *delivery.BatchError
	errs, next := make([]error, len(records)), 0
	for i, r := range records {
		if next == len(kept) || r != kept[next] {
			continue
		}
		if errs[i] = err; errors.As(err, &each) && next < len(each.Errors) {
			errs[i] = each.Errors[next]
		}
		next++
	}
	return &delivery.BatchError{Errors: errs}
}

// of reports whether a record is of somebody who is on the list.
func (l *List) of(r *delivery.Record) bool {
	return l.Has(r.Person) || r.Kind == delivery.Alias && l.Has(r.Name)
}

// Interface guards
var (
	_ delivery.Tracker = Tracker{}
	_ delivery.Batcher = Tracker{}
)
