package doctor

import (
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/app"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// asService is how to look as Caddy's service sees it.
const asService = "run this in that environment, such as: systemd-run --pipe --wait -p User=caddy -p EnvironmentFile=-/etc/caddy/env caddy tagged-urls doctor --config /etc/caddy/Caddyfile"

// keys looks at the trackers' keys. What is wrong with one that is there was
// said when the directive was loaded.
func (e *examination) keys() {
	e.eachTracker(func(s *site, t *app.Tracker) {
		if t.Disabled == "" {
			return
		}
		words := []string{t.Name, "tagged_urls"}
		if p, ok := t.Module.(delivery.PlaceholderKeyed); ok && p.Placeholder() != "" {
			words = append([]string{p.Placeholder()}, words...)
		}
		e.found(Error, checkKey, e.where(s, words...), "tracker "+t.Name+" gets nothing delivered: "+t.Disabled,
			"set the variable, or write the file, that the placeholder names; if Caddy's service has it, "+asService)
	})
	e.fine(checkKey, "the trackers' keys look as keys do")
}
