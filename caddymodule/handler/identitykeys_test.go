package handler

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// What is sealed here the library opens that Caddy is built with, and the other
// way round.
func TestSealedAsByJOSE(t *testing.T) {
	t.Parallel()
	raw := []byte("0123456789abcdef0123456789abcdef")
	key, err := tagging.ParseSealKey("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY")
	if err != nil {
		t.Fatal(err)
	}
	rules := tagging.NewRules(tagging.RulesOptions{SealKeys: []*tagging.SealKey{key}})
	open := func(token string) (string, error) {
		parsed, err := jose.ParseEncryptedCompact(token, []jose.KeyAlgorithm{jose.DIRECT}, []jose.ContentEncryption{jose.A256GCM})
		if err != nil {
			return "", err
		}
		plain, err := parsed.Decrypt(raw)
		return string(plain), err
	}
	token, err := key.Seal("jörg \"x\" <y>", time.Unix(1_900_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := open(token); err != nil || !strings.Contains(got, `"exp":1900000000`) || !strings.Contains(got, "jörg") {
		t.Errorf("%s, %v", got, err)
	}
	seal := func(enc jose.ContentEncryption, options *jose.EncrypterOptions, claims string) string {
		encrypter, err := jose.NewEncrypter(enc, jose.Recipient{Algorithm: jose.DIRECT, Key: raw}, options)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := encrypter.Encrypt([]byte(claims))
		if err != nil {
			t.Fatal(err)
		}
		token, err := sealed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	typed := new(jose.EncrypterOptions).WithType("JWT").WithContentType("json")
	for token, want := range map[string]tagging.Reason{
		seal(jose.A256GCM, nil, `{"sub":"john"}`):   "",
		seal(jose.A256GCM, typed, `{"sub":"john"}`): "",
		seal(jose.A256GCM, &jose.EncrypterOptions{Compression: jose.DEFLATE}, `{"sub":"`+strings.Repeat("x", 99)+`"}`): tagging.SealAlgorithm,
		seal(jose.A128CBC_HS256, nil, `{"sub":"john"}`):                                                                tagging.SealAlgorithm,
	} {
		if name, reason := rules.Accept(token); reason != want || (name == "john") != (want == "") {
			t.Errorf("%s: %q, %s; want %s", token, name, reason, want)
		}
	}
	// What that library refuses is never opened here. It is less strict.
	random := rand.New(rand.NewPCG(1, 2))
	token = seal(jose.A256GCM, nil, `{"sub":"john"}`)
	stricter := 0
	for range 5000 {
		changed := []byte(token)
		for range 1 + random.IntN(2) {
			i := random.IntN(len(changed))
			switch random.IntN(3) {
			case 0:
				changed[i] ^= 1 << random.IntN(8)
			case 1:
				changed = append(changed[:i], changed[i+1:]...)
			default:
				changed = append(changed[:i], append([]byte{"A.=\n_"[random.IntN(5)]}, changed[i:]...)...)
			}
		}
		name, _ := rules.Accept(string(changed))
		_, err := open(string(changed))
		if name == "john" && string(changed) != token {
			t.Fatalf("%s is opened", changed)
		}
		if err == nil && name == "" {
			stricter++
		}
	}
	if stricter == 0 {
		t.Error("no change was tried that the library doesn't see")
	}
}

// FuzzSealedAsByJOSE: with any header and any claims, what is opened here that
// library opens, and reads the same name in it.
func FuzzSealedAsByJOSE(f *testing.F) {
	raw := []byte("0123456789abcdef0123456789abcdef")
	key, err := tagging.ParseSealKey(base64.RawURLEncoding.EncodeToString(raw))
	if err != nil {
		f.Fatal(err)
	}
	rules := tagging.NewRules(tagging.RulesOptions{SealKeys: []*tagging.SealKey{key}})
	block, _ := aes.NewCipher(raw)
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		f.Fatal(err)
	}
	for _, header := range []string{
		`{"alg":"dir","enc":"A256GCM"}`, `{"enc":"A256GCM","alg":"dir"}`, `{"alg":"dir","enc":"A256GCM","kid":"1","typ":"JWT","cty":"json"}`, `{"alg":"dir","alg":"dir","enc":"A256GCM"}`,
		`{"alg":"dir","enc":"A256GCM","kid":1}`, `{"ALG":"dir","enc":"A256GCM"}`, `{"alg":"dir","enc":"A256GCM"}{}`, `{"alg":"dir","enc":"A256GCM","zip":"DEF"}`, `{"alg":"dir","enc":"A256GCM","crit":["exp"]}`,
	} {
		for _, claims := range []string{`{"sub":"john"}`, `{"exp":1e10, "sub":"j\u00f6rg"}`, `{"sub":"john","SUB":"mary"}`, `{"sub":"john","sub":"mary"}`, `{"sub":"john"}{}`, `{"sub":"john"`} {
			f.Add(header, claims)
		}
	}
	f.Fuzz(func(t *testing.T, header, claims string) {
		enc := base64.RawURLEncoding.EncodeToString
		protected, nonce := enc([]byte(header)), []byte("twelve bytes")
		text := gcm.Seal(nil, nonce, []byte(claims), []byte(protected))
		token := strings.Join([]string{protected, "", enc(nonce), enc(text[:len(claims)]), enc(text[len(claims):])}, ".")
		name, reason := rules.Unseal(token)
		if reason != "" || name == token {
			return
		}
		parsed, err := jose.ParseEncryptedCompact(token, []jose.KeyAlgorithm{jose.DIRECT}, []jose.ContentEncryption{jose.A256GCM})
		if err != nil {
			t.Fatalf("%s names %q; the library refuses it: %v", header, name, err)
		}
		plain, err := parsed.Decrypt(raw)
		if err != nil {
			t.Fatalf("%s names %q; the library doesn't open it: %v", header, name, err)
		}
		var read struct {
			Subject string `json:"sub"`
		}
		if err := json.Unmarshal(plain, &read); err != nil || read.Subject != name {
			t.Fatalf("%s names %q; the library reads %q: %v", claims, name, read.Subject, err)
		}
	})
}
