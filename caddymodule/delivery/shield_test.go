package delivery

import (
	"reflect"
	"strings"
	"testing"
)

func TestAMistakeIsAnError(t *testing.T) {
	err := Guard(func() error { panic("john.smith") })
	if err == nil || strings.Contains(err.Error(), "john.smith") {
		t.Errorf("a panic became %v", err)
	}
	if err := Guard(func() error { return nil }); err != nil {
		t.Error(err)
	}
}

// panics is a queue each of whose methods panics.
type panics struct{ Queue }

// TestShieldHasAllMethods calls each method of a queue that isn't there.
func TestShieldHasAllMethods(t *testing.T) {
	shielded := reflect.ValueOf(Shield(panics{}))
	for m := range reflect.TypeFor[Queue]().Methods() {
		method := shielded.MethodByName(m.Name)
		var arguments []reflect.Value
		for i := range method.Type().NumIn() {
			if in := method.Type().In(i); !method.Type().IsVariadic() || i < method.Type().NumIn()-1 {
				arguments = append(arguments, reflect.Zero(in))
			}
		}
		results := method.Call(arguments) // panics if it isn't shielded
		if n := len(results); n > 0 && m.Type.Out(n-1) == reflect.TypeFor[error]() && results[n-1].IsNil() {
			t.Errorf("%s returns no error", m.Name)
		}
	}
}
