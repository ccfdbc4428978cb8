package explain

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
)

// storageAnswers is how long the storage may take.
const storageAnswers = 5 * time.Second

// ReadForgotten reads who asked to be forgotten, from the storage of a
// configuration in Caddy's JSON. If it can't, explanations say so.
func (t *DryRun) ReadForgotten(config []byte) {
	storage, err := t.storage(config)
	if err == nil {
		ctx, cancel := context.WithTimeout(t.ctx, storageAnswers)
		defer cancel()
		err = t.app.Forgotten().Load(ctx, storage)
	}
	t.unread = err
}

// storage returns a configuration's storage.
func (t *DryRun) storage(config []byte) (certmagic.Storage, error) {
	var parsed struct {
		Storage json.RawMessage `json:"storage" caddy:"namespace=caddy.storage inline_key=module"`
	}
	if err := json.Unmarshal(caddy.RemoveMetaFields(config), &parsed); err != nil {
		return nil, err
	}
	if parsed.Storage == nil {
		return caddy.DefaultStorage, nil
	}
	module, err := t.ctx.LoadModule(&parsed, "Storage")
	if err != nil {
		return nil, err
	}
	converter, ok := module.(caddy.StorageConverter)
	if !ok {
		return nil, errors.New("the module in its place is no storage")
	}
	return converter.CertMagicStorage()
}
