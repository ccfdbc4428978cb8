package caddycompat

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"
)

// Config is what matters of a configuration in Caddy's JSON that isn't loaded.
type Config struct {
	Storage json.RawMessage `json:"storage"`
	Logging caddy.Logging   `json:"logging"`
	Apps    struct {
		HTTP struct {
			HTTPPort  int                          `json:"http_port"`
			HTTPSPort int                          `json:"https_port"`
			Servers   map[string]*caddyhttp.Server `json:"servers"`
		} `json:"http"`
		TaggedURLs json.RawMessage `json:"tagged_urls"`
	} `json:"apps"`
}

// ParseConfig parses Caddy's JSON. Ports and the app's options that aren't there
// are Caddy's defaults.
func ParseConfig(text []byte) (*Config, error) {
	c := new(Config)
	if err := json.Unmarshal(caddy.RemoveMetaFields(text), c); err != nil {
		return nil, fmt.Errorf("the configuration isn't Caddy's JSON: %v", err)
	}
	http := &c.Apps.HTTP
	http.HTTPPort, http.HTTPSPort = cmp.Or(http.HTTPPort, caddyhttp.DefaultHTTPPort), cmp.Or(http.HTTPSPort, caddyhttp.DefaultHTTPSPort)
	if c.Apps.TaggedURLs == nil {
		c.Apps.TaggedURLs = json.RawMessage("{}")
	}
	return c, nil
}

// Provision makes a context with the app tagged_urls, which isn't started: no
// queue is opened, and the storage isn't touched. Caddy logs nothing from then
// on.
func Provision(app json.RawMessage) (caddy.Context, error) {
	return caddy.ProvisionContext(&caddy.Config{
		AppsRaw: caddy.ModuleMap{"tagged_urls": app},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{
			"default": {BaseLog: caddy.BaseLog{Level: "FATAL"}},
		}},
	})
}

// LoadStorage returns the configuration's storage, or Caddy's default.
func (c *Config) LoadStorage(ctx caddy.Context) (certmagic.Storage, error) {
	if c.Storage == nil {
		return caddy.DefaultStorage, nil
	}
	holder := struct {
		Raw json.RawMessage `caddy:"namespace=caddy.storage inline_key=module"`
	}{c.Storage}
	module, err := ctx.LoadModule(&holder, "Raw")
	if err != nil {
		return nil, err
	}
	converter, ok := module.(caddy.StorageConverter)
	if !ok {
		return nil, errors.New("the module in its place is no storage")
	}
	return converter.CertMagicStorage()
}

// ListensAt reports whether a server listens at a port.
func ListensAt(server *caddyhttp.Server, port int) bool {
	return slices.ContainsFunc(server.Listen, func(listen string) bool {
		a, err := caddy.ParseNetworkAddress(listen)
		return err == nil && a.StartPort <= uint(port) && uint(port) <= a.EndPort
	})
}

// Answers reports whether a handler of Caddy's own, in Caddy's JSON, answers
// whatever it gets.
func Answers(raw json.RawMessage) bool {
	var options struct {
		Handler        string            `json:"handler"`
		PassThru       bool              `json:"pass_thru"`
		HandleResponse []json.RawMessage `json:"handle_response"`
	}
	if json.Unmarshal(raw, &options) != nil {
		return false
	}
	switch options.Handler {
	case "static_response", "error", "metrics":
		return true
	case "reverse_proxy":
		return options.HandleResponse == nil // else it may be forward_auth
	case "file_server":
		return !options.PassThru
	}
	return false
}

// KnownHandler reports whether a handler is Caddy's own, or this project's.
func KnownHandler(name string) bool {
	info, err := caddy.GetModule("http.handlers." + name)
	if err != nil {
		return false
	}
	module := reflect.Indirect(reflect.ValueOf(info.New())).Type().PkgPath()
	own, _, _ := strings.Cut(reflect.TypeFor[Config]().PkgPath(), "/caddymodule/")
	return strings.HasPrefix(module, "github.com/caddyserver/caddy/v2/") || strings.HasPrefix(module, own+"/")
}
