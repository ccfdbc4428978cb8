package tagging

import (
	"crypto/aes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The value of a visit's cookie is one block of AES in URL-safe base64: when
// the browser was here, in Unix milliseconds (8 bytes), and half a block that
// is known, a hash of the cookie's scope. So nobody can make one, or read it,
// without the key: encode-then-encipher, after Bellare and Rogaway.
const visitValue = (aes.BlockSize*8 + 5) / 6

// SealVisit returns the value of a cookie that says when a browser was here, of
// 22 letters, digits, '-' and '_'. Under another scope it doesn't verify. It
// says nothing of who that is, and two browsers may have the same.
func (k *Keys) SealVisit(at time.Time, scope Scope) string {
	var block [aes.BlockSize]byte
	binary.BigEndian.PutUint64(block[:], uint64(at.UnixMilli()))
	known := visitScope(scope)
	copy(block[8:], known[:])
	k.visit.Encrypt(block[:], block[:])
	return cookieEncoding.EncodeToString(block[:])
}

// OpenVisit returns when a browser was here, from the value that SealVisit made
// for the same scope; the zero time from any other.
func (k *Keys) OpenVisit(value string, scope Scope) (at time.Time) {
	if len(value) != visitValue {
		return at
	}
	block := visitBlocks.Get().(*[aes.BlockSize]byte)
	defer visitBlocks.Put(block)
	if _, err := cookieEncoding.Decode(block[:], []byte(value)); err != nil {
		return at
	}
	k.visit.Decrypt(block[:], block[:])
	known := visitScope(scope)
	if subtle.ConstantTimeCompare(block[8:], known[:]) == 1 {
		at = time.UnixMilli(int64(binary.BigEndian.Uint64(block[:])))
	}
	return at
}

// visitBlocks are for OpenVisit, which each navigation pays for.
var visitBlocks = sync.Pool{New: func() any { return new([aes.BlockSize]byte) }}

// visitScope is what a visit's cookie is bound to.
func visitScope(scope Scope) (known [aes.BlockSize / 2]byte) {
	b := appendString(make([]byte, 0, 128), scope.Name)
	if scope.Domain {
		b = append(b, '.')
	}
	sum := sha256.Sum256(b)
	copy(known[:], sum[:])
	return known
}

// libraryCookie returns the value of a cookie of Kissmetrics' library, or "".
func libraryCookie(h http.Header, name string) string {
	for value := range CookieValues(h, name) {
		if value != "" {
			return LibraryCookie(value)
		}
	}
	return ""
}

// returnRecorded is the value of the library's km_lv once it has recorded that
// the visitor came back.
const returnRecorded = "x"

// libraryKnows reports whether the cookies of Kissmetrics' library say that the
// visitor was here before, as it judges itself: its last visit (km_lv) is half
// an hour ago; or it has none, but a name (km_ni); or Google Analytics has
// counted several (__utma).
func libraryKnows(h http.Header, now time.Time) bool {
	switch last := libraryCookie(h, "km_lv"); last {
	case "":
		if libraryCookie(h, "km_ni") != "" {
			return true
		}
	default:
		if at, err := strconv.ParseInt(last, 10, 64); err == nil && at > 0 && now.Sub(time.Unix(at, 0)) >= VisitIdle {
			return true
		}
	}
	utma := libraryCookie(h, "__utma")
	visits, err := strconv.Atoi(utma[strings.LastIndexByte(utma, '.')+1:])
	return err == nil && visits > 1
}
