package handler

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/metrics"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/trackers"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// Event is recorded of requests whose URL has no tags, such as those of a QR
// code on paper, or for a PDF.
type Event struct {
	// The event's name. It has no placeholders: visitors can't make names.
	Name string `json:"name"`
	// Its properties. Placeholders in the values are as of the request; a
	// property whose value is empty then is left out.
	Properties map[string]string `json:"properties,omitempty"`
}

// event is an [Event] that is set up.
type event struct {
	name   string
	values []tagging.Property // in the order of their names
}

func (e *Event) provision() (*event, error) {
	if err := checkName("event", e.Name); err != nil {
		return nil, err
	}
	if len(e.Properties) > tagging.MaxProperties {
		return nil, fmt.Errorf("event: %d properties are too many, an event has at most %d", len(e.Properties), tagging.MaxProperties)
	}
	set := &event{name: e.Name}
	for _, name := range slices.Sorted(maps.Keys(e.Properties)) {
		if err := checkName("property", name); err != nil {
			return nil, err
		}
		if strings.HasPrefix(name, "_") {
			return nil, fmt.Errorf("event: the property %q begins with _, and those names are the tracker's own", name)
		}
		set.values = append(set.values, tagging.Property{Name: name, Value: e.Properties[name]})
	}
	return set, nil
}

// checkName reports what is wrong with the name of an event or a property.
func checkName(of, name string) error {
	switch {
	case strings.TrimSpace(name) == "":
		return fmt.Errorf("event: the name of the %s is empty: event <name> { property <name> <value> }", of)
	case trackers.HasPlaceholder(name):
		return fmt.Errorf("event: the name of the %s, %q, has a placeholder, and names are fixed: put it into a property's value", of, name)
	case tagging.PlainValue(name) != name || strings.TrimSpace(name) != name:
		return fmt.Errorf("event: the name of the %s, %q, has a blank at an end, a control character, or an identity in it", of, name)
	case utf8.RuneCountInString(name) > tagging.MaxName:
		return fmt.Errorf("event: the name of the %s has more than %d characters", of, tagging.MaxName)
	}
	return nil
}

// properties returns the event's properties for a request.
func (e *event) properties(r *http.Request) (properties []tagging.Property) {
	repl, size := replacer(r), 0
	for _, p := range e.values {
		value := p.Value
		if repl != nil {
			value = repl.ReplaceAll(value, "")
		}
		if p.Value = tagging.PlainValue(value); p.Value == "" {
			continue
		}
		if size += len(p.Name) + len(p.Value); size > tagging.MaxHit-tagging.MaxName*utf8.UTFMax {
			metrics.DroppedTags.WithLabelValues(string(tagging.HitTooLong)).Inc()
			break
		}
		properties = append(properties, p)
	}
	return properties
}

var errEventSyntax = errors.New("event takes one name, and properties in a block: event <name> { property <name> <value> }")
