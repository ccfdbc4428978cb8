// Package delivery carries records from a durable queue to trackers: at least
// once, with retries, and without one tracker holding up another. It knows
// neither HTTP requests nor how a queue or tracker works inside: those are
// modules behind [Queue] and [Tracker].
package delivery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// Kind says what a record is.
type Kind uint8

// The kinds of records that Kissmetrics' API knows.
const (
	Event      Kind = iota + 1 // a person did something
	Properties                 // a person has these properties
	Alias                      // two identities are one person
)

// String returns the kind's name as it appears in logs and JSON.
func (k Kind) String() string {
	switch k {
	case Event:
		return "event"
	case Properties:
		return "properties"
	case Alias:
		return "alias"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Record is one message to a tracker. It doesn't change once it is in a queue,
// so every attempt sends the same.
type Record struct {
	// ID is unique, and the same at every attempt: by it, a tracker recognizes
	// a repeat.
	ID [16]byte
	// Kind says which of the other fields count.
	Kind Kind
	// Time is when the visitor's request arrived, in whole milliseconds.
	Time time.Time
	// Site is the host that the request was for.
	Site string
	// Person is whom the record is about; for an alias, the anonymous identity.
	Person string
	// Named says that Person is a name that somebody has given, not an
	// anonymous identity. It is false for an alias.
	Named bool
	// Anonymous is the anonymous identity that has become Person by an alias of
	// the same visit; else, and where Person is no name, it is empty. Any other
	// one beside a name could be somebody else's.
	Anonymous string
	// Name is the event's name; for an alias, the identity that Person gets.
	Name string
	// Properties come in the order of the link.
	Properties []tagging.Property
	// ClientIP and UserAgent are only set for trackers that ask for them.
	ClientIP, UserAgent string
	// Trace is the span context of the visitor's request if it is traced: 16
	// bytes of trace ID, 8 of span ID, and the flags; else empty.
	Trace string
}

// recordVersion leads every encoded record, so that a later version of this
// package can still read what an earlier one stored. Version 1 knew neither
// Named nor Anonymous.
const recordVersion = 2

// AppendBinary appends the record's stored form to b. It never fails; the
// error is there for [encoding.BinaryAppender].
func (r *Record) AppendBinary(b []byte) ([]byte, error) {
	var named byte
	if r.Named {
		named = 1
	}
	b = append(b, recordVersion, byte(r.Kind))
	b = append(b, r.ID[:]...)
	b = binary.AppendVarint(b, r.Time.UnixMilli())
	b = append(b, named)
	for _, s := range r.strings() {
		b = appendString(b, *s)
	}
	b = binary.AppendUvarint(b, uint64(len(r.Properties)))
	for _, p := range r.Properties {
		b = appendString(appendString(b, p.Name), p.Value)
	}
	return b, nil
}

// strings are the fields that are strings, as they are stored; Anonymous is the
// last one, which version 1 didn't have.
func (r *Record) strings() [7]*string {
	return [...]*string{&r.Site, &r.Person, &r.Name, &r.ClientIP, &r.UserAgent, &r.Trace, &r.Anonymous}
}

var errRecord = errors.New("not a record: it is damaged")

// ErrNewer is returned for a record that a newer version has stored.
var ErrNewer = errors.New("a newer version of this module has written it")

// UnmarshalBinary reads what AppendBinary wrote. The record doesn't keep data.
func (r *Record) UnmarshalBinary(data []byte) error {
	switch {
	case len(data) > 0 && data[0] > recordVersion:
		return ErrNewer
	case len(data) < 2+len(r.ID) || data[0] == 0:
		return errRecord
	}
	r.Kind = Kind(data[1])
	d := decoder{rest: string(data[2:])}
	copy(r.ID[:], d.take(uint64(len(r.ID))))
	r.Time = time.UnixMilli(d.varint()).UTC()
	strings := r.strings()
	fields := strings[:]
	r.Named, r.Anonymous = false, ""
	if data[0] == 1 {
		fields = fields[:len(fields)-1]
	} else {
		named := d.take(1)
		if named > "\x01" {
			return errRecord
		}
		r.Named = named == "\x01"
	}
	for _, s := range fields {
		*s = d.string()
	}
	if data[0] == 1 {
		r.Named = r.Kind != Alias && !looksAnonymous.MatchString(r.Person)
	}
	n := d.uvarint()
	if n > uint64(len(d.rest)) { // each takes two bytes at least
		return errRecord
	}
	r.Properties = nil
	if n > 0 {
		r.Properties = make([]tagging.Property, n)
	}
	for i := range r.Properties {
		r.Properties[i] = tagging.Property{Name: d.string(), Value: d.string()}
	}
	if d.failed || d.rest != "" {
		return errRecord
	}
	return nil
}

// looksAnonymous matches identities as we make anonymous ones, and as
// Kissmetrics' library does.
var looksAnonymous = regexp.MustCompile(`^([A-Z2-7]{26}|[A-Za-z0-9+/]{27}=?)$`)

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decoder reads from a string, so that the record's fields share one copy of
// the stored bytes.
type decoder struct {
	rest   string
	failed bool
}

func (d *decoder) take(n uint64) string {
	if n > uint64(len(d.rest)) {
		d.failed = true
		return ""
	}
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

func (d *decoder) string() string { return d.take(d.uvarint()) }

func (d *decoder) uvarint() uint64 {
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		c := d.take(1)
		if c == "" {
			return 0
		}
		v |= uint64(c[0]&0x7f) << shift
		if c[0] < 0x80 {
			return v
		}
	}
	d.failed = true
	return 0
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}
