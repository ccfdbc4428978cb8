package mixpanel

import (
	"context"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
)

// list is a body that is an array of messages.
func list(messages []json.RawMessage) ([]byte, error) { return trackers.JSON(messages) }

// event is one of /import's.
type event struct {
	Event      string         `json:"event"`
	Properties map[string]any `json:"properties"`
}

func (t *Tracker) events(token string) trackers.Batch {
	return trackers.Batch{
		Tracker: "Mixpanel", Messages: maxBatch, Bytes: maxBody, Body: list,
		Encode: func(r *delivery.Record) ([]any, error) { return t.encodeEvent(r, token) },
		Send: func(ctx context.Context, body []byte, records []*delivery.Record) error {
			answer, err := t.post(ctx, t.importURL, body)
			if err != nil {
				return err
			}
			if answer.StatusCode == http.StatusBadRequest {
				if err := condemned(answer.Text, records); err != nil {
					return err
				}
			}
			return answer.Judge(trackers.NoPage("Mixpanel"))
		},
	}
}

func (t *Tracker) encodeEvent(r *delivery.Record, token string) ([]any, error) {
	user, anonymous := trackers.Identities(r)
	e := event{Event: r.Name, Properties: make(map[string]any)}
	switch r.Kind {
	case delivery.Event:
		if trackers.Dollar(e.Event) {
			return nil, errors.New("events whose names begin with $ are Mixpanel's own")
		}
		for name, value := range trackers.Properties(r, reserved) {
			e.Properties[name] = value
		}
	case delivery.Alias:
		e.Event = "$identify"
	default:
		return nil, errors.New("Mixpanel's API has no " + r.Kind.String())
	}
	e.Properties["token"] = token
	e.Properties["time"] = r.Time.UnixMilli()
	e.Properties["$insert_id"] = hex.EncodeToString(r.ID[:])
	e.Properties["mp_lib"] = trackers.Library
	e.Properties["$lib_version"] = trackers.Version()
	if r.ClientIP != "" {
		e.Properties["ip"] = r.ClientIP
	}
	if r.UserAgent != "" {
		e.Properties["$user_agent"] = r.UserAgent
	}
	if t.OriginalIDMerge {
		anonymous = asUUID(anonymous)
		e.Properties["distinct_id"] = user
		if user == "" {
			e.Properties["distinct_id"] = anonymous
		}
		if r.Kind == delivery.Alias {
			e.Properties["$identified_id"], e.Properties["$anon_id"] = user, anonymous
		}
	} else {
		if user != "" {
			e.Properties["$user_id"] = user
		}
		if anonymous != "" {
			e.Properties["$device_id"] = anonymous
		}
	}
	return []any{e}, check(user, anonymous)
}

// check says what is wrong with the identities.
func check(user, anonymous string) error {
	switch {
	case user == "" && anonymous == "":
		return errors.New("the record names nobody, so Mixpanel would make up a person by the address that sends it")
	case len(user) > maxIdentity || len(anonymous) > maxIdentity:
		return errors.New("the identity has more than 255 bytes, which is the most that Mixpanel takes")
	}
	return nil
}

// condemned reads the answer 400, which names the events that aren't taken:
// the others are. It returns nil if it doesn't.
func condemned(answer []byte, records []*delivery.Record) error {
	var says struct {
		Failed []struct {
			InsertID       string `json:"insert_id"`
			DollarInsertID string `json:"$insert_id"`
			Field          string `json:"field"`
		} `json:"failed_records"`
	}
	if json.Unmarshal(answer, &says) != nil || len(says.Failed) == 0 {
		return nil
	}
	fields := make(map[string]string)
	for _, f := range says.Failed {
		if !field.MatchString(f.Field) { // it might hold what was sent
			f.Field = "what it holds"
		}
		fields[f.InsertID+f.DollarInsertID] = f.Field
	}
	answers := make([]error, len(records))
	found := 0
	for i, r := range records {
		if name, failed := fields[hex.EncodeToString(r.ID[:])]; failed {
			found++
			answers[i] = &delivery.RejectedError{Status: http.StatusBadRequest, Reason: "Mixpanel doesn't take " + name}
		}
	}
	if found < len(fields) { // it is about others than we sent
		return nil
	}
	return &delivery.BatchError{Errors: answers}
}

var field = regexp.MustCompile(`^[A-Za-z_$.]{1,40}$`)

// profile is one of /engage's.
type profile struct {
	Token      string            `json:"$token"`
	DistinctID string            `json:"$distinct_id"`
	IP         string            `json:"$ip"`
	Set        map[string]string `json:"$set"`
}

func (t *Tracker) profiles(token string) trackers.Batch {
	return trackers.Batch{
		Tracker: "Mixpanel", Messages: maxBatch, Bytes: maxBody, Body: list,
		Encode: func(r *delivery.Record) ([]any, error) { return t.encodeProfile(r, token) },
		Send: func(ctx context.Context, body []byte, _ []*delivery.Record) error {
			answer, err := t.post(ctx, t.engageURL, body)
			if err != nil {
				return err
			}
			if err := answer.Judge(trackers.NoPage("Mixpanel")); err != nil {
				return err
			}
			var says struct{ Status json.Number }
			if json.Unmarshal(answer.Text, &says) == nil && says.Status == "0" {
				return &delivery.RejectedError{Status: answer.StatusCode, Reason: "Mixpanel doesn't take the profile"}
			}
			return nil
		},
	}
}

func (t *Tracker) encodeProfile(r *delivery.Record, token string) ([]any, error) {
	user, anonymous := trackers.Identities(r)
	p := profile{Token: token, DistinctID: user, IP: "0", Set: trackers.Properties(r, trackers.Dollar)}
	if r.ClientIP != "" {
		p.IP = r.ClientIP // or the place is Caddy's
	}
	switch {
	case p.Set == nil:
		return nil, nil
	case user != "":
	case t.OriginalIDMerge:
		p.DistinctID = asUUID(anonymous)
	default:
		p.DistinctID = "$device:" + anonymous
	}
	return []any{p}, check(user, anonymous)
}

// reserved reports whether a property from a link is Mixpanel's own.
func reserved(name string) bool {
	switch name {
	case "distinct_id", "token", "time", "ip", "mp_lib":
		return true
	}
	return trackers.Dollar(name)
}

// asUUID writes an anonymous identity of ours as a version 4 UUID: Original ID
// Merge takes no others. It stays as random as those are.
func asUUID(anonymous string) string {
	var id [16]byte
	b, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(anonymous)
	if err != nil || len(b) != len(id) {
		return anonymous
	}
	copy(id[:], b)
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return trackers.UUID(id)
}
