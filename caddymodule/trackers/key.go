package trackers

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ResolveKey resolves a key's placeholders as [Resolve] does, and checks it as
// [CheckKey] does.
func ResolveKey(option, value string) (string, error) {
	key, err := Resolve(option, value)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(value, "{") && strings.HasSuffix(value, "}") {
		option += " " + value
	}
	return key, CheckKey(option, key)
}

// CheckKey refuses a key with characters that no key has, such as the quotation
// marks of an environment file. Some trackers, Kissmetrics among them, say yes
// to a wrong key for ever. The error doesn't repeat the key.
func CheckKey(option, key string) error {
	if err := checkBare(key); err != nil {
		return fmt.Errorf("%s: %w", option, err)
	}
	n := 0
	for _, c := range key {
		if n++; c > unicode.MaxASCII {
			return fmt.Errorf("%s: character %d (%U) isn't ASCII, as all of a key is: copy the key again from where it was given out", option, n, c)
		}
	}
	return nil
}

// checkBare refuses what belongs not to a key or URL, but to the file or
// variable that it comes from. The error doesn't repeat it.
func checkBare(value string) error {
	const asUTF8 = "save the file that it comes from as UTF-8, without a byte order mark"
	const alone = "leave nothing but the value itself, in one line"
	n := 0
	for i, c := range value {
		n++
		what, remedy := "", alone
		switch {
		case c == utf8.RuneError && !strings.HasPrefix(value[i:], string(utf8.RuneError)):
			what, remedy = "not UTF-8", asUTF8
		case c == '\ufeff':
			what, remedy = "a byte order mark", asUTF8
		case c == 0:
			what, remedy = "a zero byte, as in UTF-16", asUTF8
		case unicode.Is(unicode.Quotation_Mark, c) || c == '`' || c == '´':
			what = "a quotation mark"
			remedy = "leave it out where the value is set, as not everything that reads environment files takes it away"
		case c == '\n' || c == '\r':
			what = "a line break"
		case unicode.IsSpace(c):
			what = "a blank"
		case unicode.IsControl(c) || unicode.Is(unicode.Cf, c):
			what = "a character that doesn't show"
		default:
			continue
		}
		return fmt.Errorf("character %d (%U) is %s: %s", n, c, what, remedy)
	}
	return nil
}
