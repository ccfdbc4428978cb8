package delivery

import (
	"fmt"
	"runtime/debug"
)

// Guard calls f and makes an error of a panic in it: a mistake may cost a hit,
// but not the visitor's page, or all of Caddy. The error doesn't show the
// panic's value, which might hold what the visitor sent.
func Guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a mistake in the module, please report it: panic of type %T at\n%s", p, debug.Stack())
		}
	}()
	return f()
}
