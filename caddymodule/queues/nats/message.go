package natsqueue

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// A record is one message. Its body is the record's stored form, sealed (see
// [keyring]); what the queue knows about it is in these headers.
const (
	headerDestination = "Tagged-Urls-Destination"
	// Of a record that was tried before: how often, and when it was put (in
	// milliseconds since 1970); of one that isn't due at once, when it is.
	headerAttempts = "Tagged-Urls-Attempts"
	headerQueued   = "Tagged-Urls-Queued"
	headerDue      = "Tagged-Urls-Due"
	// Of a dead letter.
	headerReason       = "Tagged-Urls-Reason" // in the clear
	headerSealedReason = "Tagged-Urls-Sealed-Reason"
	headerStatus       = "Tagged-Urls-Status"
)

// names are the streams' names and subjects. A destination has its own
// subjects, so that it has a consumer of its own and no other holds it up:
//
//	tagged_urls.<stream>.new.<token>    put, and not tried yet
//	tagged_urls.<stream>.again.<token>  tried before
//	tagged_urls.<stream>.dead.<token>   given up, in the stream <stream>_dead
//	tagged_urls.<stream>.alias.<token>  an identity that was aliased, in the stream <stream>_aliases
//	tagged_urls.<stream>.key.<id>       what records are sealed with, in the stream <stream>_keys
type names struct{ stream string }

func (n names) dead() string    { return n.stream + "_dead" }
func (n names) aliases() string { return n.stream + "_aliases" }
func (n names) keys() string    { return n.stream + "_keys" }

// The kinds of subjects.
const (
	kindNew   = "new"
	kindAgain = "again"
	kindDead  = "dead"
	kindAlias = "alias"
	kindKey   = "key"
)

// subject returns the subject of a kind for a destination's token, which both
// may be "*".
func (n names) subject(kind, token string) string {
	return "tagged_urls." + n.stream + "." + kind + "." + token
}

// tokenOf returns the part of a subject that stands for the destination.
func tokenOf(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

// kindOf returns a subject's kind.
func kindOf(subject string) string {
	subject = subject[:strings.LastIndexByte(subject, '.')]
	return tokenOf(subject)
}

// token stands for a destination in subjects and consumers' names, where few
// characters are allowed.
func token(destination string) string {
	sum := sha256.Sum256([]byte(destination))
	return hex.EncodeToString(sum[:16])
}

// escape makes a text fit for a header's value; url.PathUnescape undoes it.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '%' || c == ' ' && i > 0 && i < len(s)-1 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func unescape(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}

// publisher makes messages of entries.
type publisher struct {
	names
	// nonce tells this open queue's messages from those of others. JetStream
	// drops what has the ID of a message it had a moment ago. That is right
	// for what is sent a second time because no answer came, but not for a
	// record that was moved to another queue meanwhile, and back.
	nonce string
}

func newPublisher(n names) publisher { return publisher{n, rand.Text()[:8]} }

func (p publisher) message(e delivery.Entry) (*nats.Msg, error) {
	body, err := e.Record.AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	token := token(e.Destination)
	id := base64.RawURLEncoding.EncodeToString(e.Record.ID[:]) + "." + token[:12] + "." + p.nonce
	m := &nats.Msg{
		Subject: p.subject(kindNew, token),
		Header: nats.Header{
			jetstream.MsgIDHeader: {id},
			headerDestination:     {escape(e.Destination)},
		},
		Data: body,
	}
	if wait := time.Until(e.NotBefore); wait > 0 && wait <= delivery.MaxDelay {
		setNumber(m.Header, headerDue, millis(e.NotBefore))
	}
	return m, nil
}

// derived makes the message that takes another's place, with an ID that is the
// same whenever that is tried.
func (n names) derived(kind, token, id string, header nats.Header, body []byte) *nats.Msg {
	m := &nats.Msg{Subject: n.subject(kind, token), Header: nats.Header{jetstream.MsgIDHeader: {id}}, Data: body}
	for _, name := range [...]string{headerDestination, headerQueued, headerAttempts} {
		if v := header.Get(name); v != "" {
			m.Header.Set(name, v)
		}
	}
	return m
}

// number returns a header's number, 0 if it has none.
func number(h nats.Header, name string) int64 {
	n, _ := strconv.ParseInt(h.Get(name), 10, 64)
	return n
}

func setNumber(h nats.Header, name string, n int64) { h.Set(name, strconv.FormatInt(n, 10)) }

// moment returns a header's time, or another if it has none.
func moment(h nats.Header, name string, otherwise time.Time) time.Time {
	if n := number(h, name); n != 0 {
		return time.UnixMilli(n)
	}
	return otherwise
}

// millis rounds up, so that nothing is due too early.
func millis(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }
