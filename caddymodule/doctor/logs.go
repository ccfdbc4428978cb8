package doctor

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// logs looks for logs that show identities: Caddy makes them of the request as
// it arrived.
func (e *examination) logs() {
	logs := maps.Clone(e.config.Logging.Logs)
	if logs == nil {
		logs = make(map[string]*caddy.CustomLog)
	}
	if logs["default"] == nil {
		logs["default"] = new(caddy.CustomLog) // Caddy's own
	}
	const filter = "give its `log` the filter: format filter { request tagged_urls; resp_headers tagged_urls; uri tagged_urls; env tagged_urls }, each on a line of its own (docs/privacy.md has it whole)"
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		log := logs[name]
		if silent(log) || filtered(log.EncoderRaw) {
			continue
		}
		what, where := "the log "+name, ""
		if name == "default" {
			what, where = "the default log", e.source.global("log")
		}
		shows := false
		for _, s := range e.sites {
			if e.accessLogged(s, log) {
				shows = true
				e.found(Error, checkLogs, cmp.Or(where, e.where(s, "log")), what+" shows the identity of each tagged link: it has no filter tagged_urls for the field request", filter)
			}
		}
		if !shows && allows(log, "http.log.error") {
			e.found(Warning, checkLogs, where, what+", where Caddy writes errors, shows the identity of tagged links whose request fails: it has no filter tagged_urls for the field request", filter)
		}
	}
	e.fine(checkLogs, "the logs have the filter, or show no requests")
}

// silent reports whether a log shows nothing of requests.
func silent(log *caddy.CustomLog) bool {
	var writer struct {
		Output string `json:"output"`
	}
	_ = json.Unmarshal(log.WriterRaw, &writer)
	level := strings.ToUpper(log.Level)
	return writer.Output == "discard" || level == "FATAL" || level == "PANIC"
}

// filtered reports whether an encoder, or one inside it, filters requests.
func filtered(encoder json.RawMessage) bool {
	var options struct {
		Format string                     `json:"format"`
		Wrap   json.RawMessage            `json:"wrap"`
		Fields map[string]json.RawMessage `json:"fields"`
	}
	if json.Unmarshal(encoder, &options) != nil {
		return false
	}
	var field struct {
		Filter string `json:"filter"`
	}
	if options.Format == "filter" && json.Unmarshal(options.Fields["request"], &field) == nil && (field.Filter == "tagged_urls" || field.Filter == "delete") {
		return true
	}
	return options.Wrap != nil && filtered(options.Wrap)
}

// accessLogged reports whether a log gets the site's access log.
func (e *examination) accessLogged(s *site, log *caddy.CustomLog) bool {
	of := e.config.Apps.HTTP.Servers[s.server].Logs
	if of == nil || slices.ContainsFunc(s.before, skipsLog) {
		return false
	}
	hosts := s.hosts
	if len(hosts) == 0 {
		hosts = []string{""} // all of the server's
	}
	var names []string
	for _, host := range hosts {
		names = append(names, loggersOf(of, strings.ToLower(host))...)
	}
	for _, l := range e.loggers {
		if l.server == s.server && overlap(l.hosts, s.hosts) {
			names = append(names, l.names...)
		}
	}
	return slices.ContainsFunc(names, func(name string) bool {
		if name != "" {
			name = "." + name
		}
		return allows(log, "http.log.access"+name)
	})
}

// skipsLog reports whether a handler keeps all requests out of the access log,
// as the directive log_skip does.
func skipsLog(s step) bool {
	var vars map[string]any
	return s.name == "vars" && !s.matched && json.Unmarshal(s.raw, &vars) == nil && vars["log_skip"] == true
}

// loggersOf are the names of those that a host's access log goes to.
func loggersOf(of *caddyhttp.ServerLogConfig, host string) []string {
	if slices.Contains(of.SkipHosts, host) {
		return nil
	}
	for name, loggers := range of.LoggerNames {
		if name != "" && sameHost(name, host) {
			return loggers
		}
	}
	if of.SkipUnmappedHosts {
		return nil
	}
	return []string{of.DefaultLoggerName}
}

// allows reports whether a log takes what a logger says. The longest name that
// fits counts, as in Caddy.
func allows(log *caddy.CustomLog, logger string) bool {
	longest := func(names []string) (length int) {
		for _, name := range names {
			if strings.HasPrefix(logger+".", name+".") {
				length = max(length, len(name))
			}
		}
		return length
	}
	include, exclude := longest(log.Include), longest(log.Exclude)
	if len(log.Include) > 0 && include == 0 || slices.Contains(log.Exclude, "*") {
		return false
	}
	return exclude == 0 || include > exclude
}
