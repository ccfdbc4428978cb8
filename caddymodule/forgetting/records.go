package forgetting

import "github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"

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

// Names reports whether a record names somebody who is on the list: it was
// taken from the queue before, or put there by who didn't know yet.
func (l *List) Names(r *delivery.Record) bool {
	return l.Has(r.Person) || r.Kind == delivery.Alias && l.Has(r.Name)
}
