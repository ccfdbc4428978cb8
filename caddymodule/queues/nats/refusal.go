package natsqueue

import (
	"context"
	"errors"
	"strings"

	"github.com/nats-io/nats.go"
)

// refusal is what is being asked for, and how to stop it.
type refusal struct {
	about string
	stop  context.CancelCauseFunc
}

// onStream is what the subjects of requests about a stream have in common.
func (n names) onStream(stream string) string { return "." + stream + `"` }

// asking calls a function whose context ends as soon as the servers say that
// the user may not use a subject in which, quoted, there's some text: they say
// nothing else then.
func (c *client) asking(ctx context.Context, about string, ask func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r := &refusal{about, stop}
	c.refusals.Store(r, nil)
	defer c.refusals.Delete(r)
	err := ask(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, nats.ErrPermissionViolation) {
		return cause
	}
	return err
}

// refused stops what is being asked for when the servers say no, and reports
// whether that is something.
func (c *client) refused(text string, err error) (found bool) {
	c.refusals.Range(func(r, _ any) bool {
		if r := r.(*refusal); strings.Contains(text, r.about) {
			r.stop(err)
			found = true
		}
		return true
	})
	return found
}
