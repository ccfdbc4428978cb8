package console

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/admin"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
)

// stateNow is how the queue and the trackers do.
type stateNow struct {
	admin.Status
	Now     int64         `json:"now"` // milliseconds since 1970
	History metrics.Chart `json:"history"`
}

func state() stateNow {
	now := time.Now()
	return stateNow{Status: admin.ReadStatus(), Now: now.UnixMilli(), History: metrics.History.Read(now)}
}

// letterRow is a dead letter as the page shows it.
type letterRow struct {
	ID         string      `json:"id"`
	Tracker    string      `json:"tracker"`
	Kind       string      `json:"kind,omitempty"`
	Site       string      `json:"site,omitempty"`
	Time       int64       `json:"time,omitempty"`
	Died       int64       `json:"died"`
	Attempts   int         `json:"attempts"`
	Status     int         `json:"status,omitempty"`
	Reason     string      `json:"reason"`
	Person     string      `json:"person,omitempty"`
	Event      string      `json:"event,omitempty"`
	Properties [][2]string `json:"properties,omitempty"`
}

// maxLetters is how many dead letters are listed.
const maxLetters = 200

// letterList is the oldest dead letters.
type letterList struct {
	Letters []letterRow `json:"letters"`
	More    bool        `json:"more"` // there are more than these
}

func (p *pages) letters(r *http.Request) (letterList, error) {
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || limit < 1 || limit > maxLetters {
		limit = maxLetters
	}
	m := masker{hides: !p.shown, session: sessionOf(r)}
	list := letterList{Letters: []letterRow{}}
	err = admin.EachQueue(func(queue delivery.Queue, _ *delivery.Engine) error {
		return queue.DeadLetters(r.URL.Query().Get("tracker"), func(d delivery.DeadLetter) bool {
			if len(list.Letters) == limit {
				list.More = true
				return false
			}
			list.Letters = append(list.Letters, m.letter(d))
			return true
		})
	})
	return list, err
}

func (m masker) letter(d delivery.DeadLetter) letterRow {
	row := letterRow{
		ID: d.ID, Tracker: d.Destination, Died: millis(d.Died), Attempts: d.Attempts, Status: d.Status, Reason: m.text(d.Reason),
	}
	if d.Record != nil {
		r := m.record(d.Record)
		row.Kind, row.Site, row.Time = r.Kind.String(), r.Site, millis(r.Time)
		row.Person, row.Event, row.Properties = r.Person, r.Name, pairs(r.Properties)
	}
	return row
}

// operate does what a button says, and returns with how many records.
func operate(what, tracker, id string) (total int, err error) {
	filter := delivery.DeadFilter{Destination: tracker, ID: id}
	err = admin.EachQueue(func(queue delivery.Queue, engine *delivery.Engine) error {
		n, err := 0, error(nil)
		switch what {
		case "retry":
			return engine.RetryNow(tracker)
		case "retry-letters":
			n, err = queue.Requeue(filter)
		case "delete-letters":
			n, err = queue.DeleteDead(filter)
		}
		total += n
		return err
	})
	return total, err
}

// forget forgets a person, and answers with the receipt.
func forget(w http.ResponseWriter, r *http.Request) error {
	identity := r.PostForm.Get("identity")
	if strings.TrimSpace(identity) == "" {
		return failure{http.StatusBadRequest, "Whom to forget isn't said: give the identity, as links name it."}
	}
	receipt, err := admin.Forget(r.Context(), admin.ForgetRequest{Identity: identity})
	if says := (caddy.APIError{}); errors.As(err, &says) {
		return failure{says.HTTPStatus, sentence(says.Err)}
	} else if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, receipt)
	return nil
}
