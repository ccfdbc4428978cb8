package trackers

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// Batch is how a tracker takes several records in one request: as a list of
// JSON messages of limited size.
type Batch struct {
	// Tracker is its name in errors.
	Tracker string
	// Messages bounds how many messages a request has, Bytes how many bytes its
	// body, and MessageBytes how many each of them (0: as many as the body).
	Messages, Bytes, MessageBytes int
	// Encode makes a record's messages; none if there is nothing to tell. The
	// error is why it can't be told, without personal data.
	Encode func(*delivery.Record) ([]any, error)
	// Body makes a request's body of messages. It may add a few hundred bytes.
	Body func(messages []json.RawMessage) ([]byte, error)
	// Send sends a body with the messages of the records, and returns what
	// [delivery.Tracker] would for them.
	Send func(ctx context.Context, body []byte, records []*delivery.Record) error
}

// part is one record's share of a request.
type part struct {
	record   int
	messages []json.RawMessage
	bytes    int // with a comma for each
}

// Deliver sends the records in as many requests as it takes, and returns what
// [delivery.Tracker] wants. What the tracker condemns together is sent in
// halves, to find what is meant.
func (b Batch) Deliver(ctx context.Context, records []*delivery.Record) error {
	answers := make([]error, len(records))
	empty, err := b.Body([]json.RawMessage{})
	if err != nil {
		return err
	}
	space := b.Bytes - len(empty)
	var parts []part
	var failed error
	room, count := space, 0
	flush := func() {
		if len(parts) > 0 {
			failed = b.send(ctx, records, parts, answers, failed)
		}
		parts, room, count = nil, space, 0
	}
	for i, r := range records {
		p, err := b.part(i, r, space)
		if err != nil {
			answers[i] = &delivery.RejectedError{Reason: err.Error()}
			continue
		}
		if len(p.messages) == 0 {
			continue
		}
		if p.bytes > room || count+len(p.messages) > b.Messages {
			flush()
		}
		parts = append(parts, p)
		room, count = room-p.bytes, count+len(p.messages)
	}
	flush()
	return Together(answers)
}

// part makes a record's messages, for which there is so much space.
func (b Batch) part(i int, r *delivery.Record, space int) (part, error) {
	messages, err := b.Encode(r)
	if err != nil {
		return part{}, err
	}
	p := part{record: i}
	for _, m := range messages {
		raw, err := JSON(m)
		if err != nil {
			return part{}, err
		}
		if b.MessageBytes > 0 && len(raw) > b.MessageBytes {
			return part{}, fmt.Errorf("it takes %d bytes, and %s takes %d at most", len(raw), b.Tracker, b.MessageBytes)
		}
		p.messages = append(p.messages, raw)
		p.bytes += len(raw) + len(",")
	}
	if p.bytes > space {
		return part{}, fmt.Errorf("it takes %d bytes, and %s takes %d at most", p.bytes, b.Tracker, space)
	}
	return p, nil
}

// send sends parts as one request, or in halves, and notes each record's
// answer. After a failure nothing more is sent, but all gets that answer; send
// returns it.
func (b Batch) send(ctx context.Context, records []*delivery.Record, parts []part, answers []error, failed error) error {
	var list []*delivery.Record
	var messages []json.RawMessage
	for _, p := range parts {
		list = append(list, records[p.record])
		messages = append(messages, p.messages...)
	}
	err := failed
	if err == nil {
		var body []byte
		if body, err = b.Body(messages); err == nil {
			err = b.Send(ctx, body, list)
		}
	}
	byRecord := (*delivery.BatchError)(nil)
	rejected := errors.As(err, new(*delivery.RejectedError))
	switch {
	case errors.As(err, &byRecord):
		for i, p := range parts {
			answers[p.record] = byRecord.Errors[i]
		}
		return nil
	case rejected && len(parts) > 1:
		half := len(parts) / 2
		err = b.send(ctx, records, parts[:half], answers, nil)
		return b.send(ctx, records, parts[half:], answers, err)
	}
	for _, p := range parts {
		answers[p.record] = err
	}
	if rejected {
		return nil
	}
	return err
}

// Together makes one error of the records' answers.
func Together(answers []error) error {
	same := true
	for _, err := range answers {
		same = same && err == answers[0] //nolint:errorlint // the very same
	}
	if len(answers) == 0 || same && answers[0] == nil {
		return nil
	}
	if same && (len(answers) == 1 || !errors.As(answers[0], new(*delivery.RejectedError))) {
		return answers[0]
	}
	return &delivery.BatchError{Errors: answers}
}

// Answers is the reverse of [Together], for so many records.
func Answers(err error, records int) []error {
	if byRecord := (*delivery.BatchError)(nil); errors.As(err, &byRecord) {
		return byRecord.Errors
	}
	answers := make([]error, records)
	for i := range answers {
		answers[i] = err
	}
	return answers
}

// Post is a request with a JSON body.
type Post struct {
	URL     *url.URL
	Header  http.Header // beside those that every request has
	Gzip    bool
	Timeout time.Duration
	// Answer is how many bytes of the answer's body are wanted.
	Answer int64
}

// Send sends a body and returns the answer, or the error that there is none.
func (p Post) Send(ctx context.Context, body []byte) (*delivery.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	header := http.Header{
		"User-Agent":   {UserAgent},
		"Content-Type": {"application/json"},
		// Empty, so it isn't sent: it tells net/http that the request may be
		// repeated if the connection turns out to have been closed.
		"Idempotency-Key": {},
	}
	for name, values := range p.Header {
		header[name] = values
	}
	if p.Gzip {
		body = Compress(body)
		header["Content-Encoding"] = []string{"gzip"}
	}
	req := &http.Request{
		Method: http.MethodPost, URL: p.URL, Host: p.URL.Host, Header: header,
		ContentLength: int64(len(body)),
		GetBody:       func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil },
	}
	req.Body, _ = req.GetBody()
	return delivery.Exchange(delivery.HTTPTransport, req.WithContext(ctx), p.Answer)
}

// NoPage accepts any answer but a web page: that is from something in between,
// such as a login or a parked domain.
func NoPage(tracker string) func(*http.Response) string {
	return func(resp *http.Response) string {
		if IsHTML(resp.Header.Get("Content-Type")) {
			return "the answer is a web page, so this isn't " + tracker + "'s API (is the endpoint right? is there a proxy in between?)"
		}
		if resp.StatusCode == http.StatusNotModified {
			return http.StatusText(resp.StatusCode)
		}
		return ""
	}
}

// IsHTML reports whether a Content-Type is HTML's, however badly it goes on.
func IsHTML(contentType string) bool {
	if end := strings.IndexAny(contentType, ";,"); end >= 0 {
		contentType = contentType[:end]
	}
	return strings.EqualFold(strings.TrimSpace(contentType), "text/html")
}

var compressors = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

// Compress returns a body as gzip.
func Compress(body []byte) []byte {
	var b bytes.Buffer
	w := compressors.Get().(*gzip.Writer)
	defer compressors.Put(w)
	w.Reset(&b)
	_, _ = w.Write(body) // a buffer takes everything
	_ = w.Close()
	return b.Bytes()
}

// Preview shows a record's request, without sending it.
func (b Batch) Preview(r *delivery.Record, to *url.URL) string {
	messages, err := b.Encode(r)
	if err != nil {
		return err.Error()
	}
	if len(messages) == 0 {
		return "nothing"
	}
	raw := make([]json.RawMessage, len(messages))
	for i, m := range messages {
		if raw[i], err = JSON(m); err != nil {
			return err.Error()
		}
	}
	body, err := b.Body(raw)
	if err != nil {
		return err.Error()
	}
	return "POST " + to.String() + "\n" + string(body)
}
