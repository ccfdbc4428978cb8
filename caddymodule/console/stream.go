package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/live"
)

const (
	// beat is how often a stream says something, so that neither side takes the
	// other for gone.
	beat = 15 * time.Second
	// reconnect is after how long a browser comes back when a stream has ended,
	// as by a reload.
	reconnect = 500 * time.Millisecond
	// stuck is after how long a browser that takes nothing is given up: a
	// reload waits for it.
	stuck = 5 * time.Second
)

// stream sends hits and what becomes of them, as server-sent events.
func (p *pages) stream(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	viewer, err := live.Process.Watch(live.Filter{Site: query.Get("site"), Event: query.Get("event"), Outcome: query.Get("outcome")})
	if err != nil {
		return failure{http.StatusServiceUnavailable, "Too many people watch already."}
	}
	defer viewer.Leave()
	out := http.NewResponseController(w)
	// Timeouts of the server are for answers that end.
	_ = out.SetReadDeadline(time.Time{})
	_ = out.SetWriteDeadline(time.Now().Add(stuck))
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(p.closing, cancel)()

	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	if _, err := fmt.Fprintf(w, "retry: %d\n\n", reconnect.Milliseconds()); err != nil || r.Method == http.MethodHead {
		return nil
	}
	m := masker{hides: !p.shown, session: sessionOf(r)}
	for out.Flush() == nil {
		_ = out.SetWriteDeadline(time.Time{}) // of HTTP/2 it would end a stream that waits
		waits, stop := context.WithTimeout(ctx, beat)
		rows, left, err := viewer.Next(waits)
		stop()
		_ = out.SetWriteDeadline(time.Now().Add(stuck))
		switch {
		case ctx.Err() != nil: // asked last: the configuration's end has the last word
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			_, err = w.Write([]byte(":\n\n"))
		case err == nil:
			var data []byte
			if data, err = json.Marshal(news{m.rows(rows), left}); err == nil {
				_, err = fmt.Fprintf(w, "event: hits\ndata: %s\n\n", data)
			}
		}
		if err != nil {
			return nil // the browser is gone
		}
		if out.Flush() != nil {
			return nil
		}
		viewer.Rest(ctx)
	}
	return nil
}

// news is what is new to a viewer.
type news struct {
	Rows []hitRow `json:"rows"`
	// Left is how many hits were left out.
	Left int `json:"left"`
}
