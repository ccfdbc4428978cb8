package explain

import (
	"context"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/caddycompat"
)

// storageAnswers is how long the storage may take.
const storageAnswers = 5 * time.Second

// ReadForgotten reads who asked to be forgotten, from the storage of a
// configuration in Caddy's JSON. If it can't, explanations say so.
func (t *DryRun) ReadForgotten(config []byte) { t.unread = t.readForgotten(config) }

func (t *DryRun) readForgotten(config []byte) error {
	parsed, err := caddycompat.ParseConfig(config)
	if err != nil {
		return err
	}
	storage, err := parsed.LoadStorage(t.ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.ctx, storageAnswers)
	defer cancel()
	return t.app.Forgotten().Load(ctx, storage)
}
