package access

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// signers are the private halves of the keys in the test's set, made once: RSA keys take their time.
var signers = sync.OnceValue(func() (s struct {
	rsa, otherRSA *rsa.PrivateKey
	ec, otherEC   *ecdsa.PrivateKey
	ed            ed25519.PrivateKey
}) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var err error
	s.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	s.otherRSA, err = rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	s.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	s.otherEC, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	_, s.ed, err = ed25519.GenerateKey(rand.Reader)
	must(err)
	return s
})

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func b64json(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b64(b)
}

type object = map[string]any

func rsaJWK(kid string, k *rsa.PublicKey) object {
	return object{"kty": "RSA", "kid": kid, "use": "sig", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
}

func ecJWK(kid string, k *ecdsa.PublicKey) object {
	p, err := k.Bytes()
	if err != nil {
		panic(err)
	}
	return object{"kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "x": b64(p[1:33]), "y": b64(p[33:])}
}

func edJWK(kid string, k ed25519.PublicKey) object {
	return object{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(k)}
}

func jwks(keys ...object) []byte {
	b, err := json.Marshal(object{"keys": keys})
	if err != nil {
		panic(err)
	}
	return b
}

func testSet(t testing.TB) KeySet {
	t.Helper()
	s := signers()
	set, err := ParseKeySet(jwks(rsaJWK("rsa", &s.rsa.PublicKey), ecJWK("ec", &s.ec.PublicKey), edJWK("ed", s.ed.Public().(ed25519.PublicKey))), Asymmetric)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

var secret = []byte("kR7vTq2mZx9LwPc4Yb8NfHd3Js6Gu1Ea")

func want(algs []string) expect {
	return expect{issuer: "https://issuer", audience: "pimoe", algs: algs, types: []string{"jwt", "at+jwt"}, leeway: 30 * time.Second, now: func() time.Time { return noon }}
}

// verifiers are one for published keys and one for a secret.
func verifiers(t testing.TB) (public, symmetric *verifier) {
	t.Helper()
	s, err := SecretKey(secret, []string{"HS256"})
	if err != nil {
		t.Fatal(err)
	}
	return newVerifier(fixedKeys{testSet(t)}, want(Asymmetric)), newVerifier(fixedKeys{s}, want([]string{"HS256"}))
}

func sound(changes ...any) object {
	c := object{"iss": "https://issuer", "aud": "pimoe", "sub": "ann", "exp": noon.Add(time.Hour).Unix(), "iat": noon.Unix(), "roles": []string{"user"}}
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == nil {
			delete(c, changes[i].(string))
		} else {
			c[changes[i].(string)] = changes[i+1]
		}
	}
	return c
}

// sign signs "header.claims" as alg says, with the test's keys.
func sign(alg, input string) []byte {
	s := signers()
	digest := sha256.Sum256([]byte(input))
	var sig []byte
	var err error
	switch alg {
	case "RS256":
		sig, err = rsa.SignPKCS1v15(nil, s.rsa, crypto.SHA256, digest[:])
	case "PS256":
		sig, err = rsa.SignPSS(rand.Reader, s.rsa, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	case "ES256":
		var r, v *big.Int
		if r, v, err = ecdsa.Sign(rand.Reader, s.ec, digest[:]); err == nil {
			sig = append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...)
		}
	case "EdDSA":
		sig = ed25519.Sign(s.ed, []byte(input))
	case "HS256":
		sig = mac(secret, input)
	default:
		panic(alg)
	}
	if err != nil {
		panic(err)
	}
	return sig
}

func mac(key []byte, input string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(input))
	return h.Sum(nil)
}

var kids = map[string]string{"RS256": "rsa", "PS256": "rsa", "ES256": "ec", "EdDSA": "ed"}

func header(alg string, changes ...any) object {
	h := object{"alg": alg, "typ": "JWT"}
	if kid, ok := kids[alg]; ok {
		h["kid"] = kid
	}
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == nil {
			delete(h, changes[i].(string))
		} else {
			h[changes[i].(string)] = changes[i+1]
		}
	}
	return h
}

// rawToken signs whatever text stands for header and claims.
func rawToken(alg, head, body string) string {
	input := b64([]byte(head)) + "." + b64([]byte(body))
	return input + "." + b64(sign(alg, input))
}

func token(alg string, h, c object) string {
	input := b64json(h) + "." + b64json(c)
	return input + "." + b64(sign(alg, input))
}

// vector is a hostile token beside a sound one that differs in the attack alone.
type vector struct {
	name           string
	hostile, sound string
	symmetric      bool // for the verifier with a secret
}

var signedBy = []string{"RS256", "PS256", "ES256", "EdDSA", "HS256"}

// hostile makes the corpus, family by family.
func hostile() []vector {
	var out []vector
	add := func(alg, name, bad, good string) {
		out = append(out, vector{alg + " " + name, bad, good, alg == "HS256"})
	}
	for _, alg := range signedBy {
		good := token(alg, header(alg), sound())
		for _, f := range []func(alg, good string, add func(name, bad string)){unsigned, headers, claimAttacks, spellings, signatures} {
			f(alg, good, func(name, bad string) { add(alg, name, bad, good) })
		}
	}
	return append(out, confusions()...)
}

func unsigned(alg, good string, add func(name, bad string)) {
	parts := strings.Split(good, ".")
	for _, none := range []string{"none", "None", "NONE", "nOnE", "", " none", "none ", "null"} {
		input := b64json(header(alg, "alg", none)) + "." + parts[1]
		add("alg "+none+" without signature", input+".")
		add("alg "+none+" with the old signature", input+"."+parts[2])
	}
	add("no signature", parts[0]+"."+parts[1]+".")
	add("two parts", parts[0]+"."+parts[1])
	add("alg missing", rawToken(alg, `{"typ":"JWT"}`, mustText(sound())))
	for _, v := range []any{1, true, []string{alg}, object{"a": alg}, "RS1", "HS1", strings.ToLower(alg), alg + "\x00", alg + " "} {
		add(fmt.Sprintf("alg %v", v), token(alg, header(alg, "alg", v), sound()))
	}
}

func headers(alg, _ string, add func(name, bad string)) {
	s := signers()
	for name, v := range map[string]any{
		"jwk": rsaJWK("x", &s.otherRSA.PublicKey), "jku": "https://evil/jwks", "x5u": "https://evil/x5", "x5c": []string{"AAAA"},
		"crit": []string{"exp"}, "b64": false, "zip": "DEF", "enc": "A256GCM", "cty": "JWT", "JKU": "https://evil", "Alg": "none", "Kid": "rsa", "Typ": "JWT", "Crit": []string{"x"},
	} {
		add("header "+name, token(alg, header(alg, name, v), sound()))
	}
	add("empty crit", token(alg, header(alg, "crit", []string{}), sound()))
	for _, kid := range []any{"../../../../dev/null", "/dev/null", "' OR 1=1 --", "|id", "rsa\x00", "RSA", "", 5, []string{"rsa"}, object{}, strings.Repeat("k", 300), "https://evil/key"} {
		add(fmt.Sprintf("kid %.30v", kid), token(alg, header(alg, "kid", kid), sound()))
	}
	for _, typ := range []any{"dpop+jwt", "logout+jwt", "secevent+jwt", "id_token", "JOSE", "", 1, []string{"JWT"}, "application/application/jwt", "jwt;x"} {
		add(fmt.Sprintf("typ %v", typ), token(alg, header(alg, "typ", typ), sound()))
	}
	h := mustText(header(alg))
	for name, text := range map[string]string{
		"duplicate alg":    strings.Replace(h, "{", `{"alg":"none",`, 1),
		"escaped alg":      strings.Replace(h, "{", `{"\u0061lg":"none",`, 1),
		"duplicate typ":    strings.Replace(h, "{", `{"typ":"JWT",`, 1),
		"trailing data":    h + "{}",
		"no object":        "[" + h + "]",
		"null":             "null",
		"broken UTF-8":     strings.Replace(h, "{", "{\"x\":\"\xff\",", 1),
		"too deep":         strings.Replace(h, "{", `{"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+",", 1),
		"byte order mark":  "\xef\xbb\xbf" + h,
		"comment":          "/**/" + h,
		"not closed":       h[:len(h)-1],
		"quoted as string": `"` + "x" + `"`,
	} {
		add("header "+name, rawToken(alg, text, mustText(sound())))
	}
}

func mustText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func claimAttacks(alg, _ string, add func(name, bad string)) {
	at := func(d time.Duration) int64 { return noon.Add(d).Unix() }
	for name, change := range map[string][]any{
		"other issuer": {"iss", "https://evil"}, "issuer with a slash": {"iss", "https://issuer/"}, "issuer in capitals": {"iss", "HTTPS://ISSUER"}, "issuer list": {"iss", []string{"https://issuer"}},
		"no issuer": {"iss", nil}, "empty issuer": {"iss", ""}, "issuer prefix": {"iss", "https://issuer.evil"}, "other audience": {"aud", "other"}, "no audience": {"aud", nil}, "empty audience": {"aud", ""},
		"audience list without": {"aud", []string{"a", "b"}}, "empty audience list": {"aud", []string{}}, "audience prefix": {"aud", "pimoe2"}, "audience in capitals": {"aud", "PIMOE"}, "audience object": {"aud", object{"pimoe": true}},
		"audience mixed": {"aud", []any{"pimoe", 1}}, "many audiences": {"aud", append(strings.Split(strings.Repeat("x ", 20), " "), "pimoe")}, "audience number": {"aud", 5},
		"expired": {"exp", at(-31 * time.Second)}, "expired long ago": {"exp", 1}, "no expiry": {"exp", nil}, "expiry zero": {"exp", 0}, "expiry text": {"exp", fmt.Sprint(at(time.Hour))}, "expiry null": {"exp", json.RawMessage("null")},
		"expiry negative": {"exp", -1}, "expiry huge": {"exp", json.RawMessage("1e300")}, "expiry over": {"exp", json.RawMessage("1e999")}, "expiry list": {"exp", []int64{at(time.Hour)}}, "expiry true": {"exp", true}, "expiry beyond int64": {"exp", json.RawMessage("9223372036854775808")},
		"not before": {"nbf", at(31 * time.Second)}, "not before text": {"nbf", "0"}, "not before huge": {"nbf", json.RawMessage("1e300")}, "not before negative": {"nbf", -5},
		"issued in the future": {"iat", at(time.Hour)}, "issued text": {"iat", "now"}, "issued negative": {"iat", -1}, "no subject": {"sub", nil}, "empty subject": {"sub", ""}, "subject number": {"sub", 7}, "long subject": {"sub", strings.Repeat("s", 300)},
	} {
		add(name, token(alg, header(alg), sound(change...)))
	}
	c := mustText(sound())
	for name, text := range map[string]string{
		"duplicate exp": strings.Replace(c, "{", `{"exp":1,`, 1), "duplicate roles": strings.Replace(c, "{", `{"roles":["admin"],`, 1), "escaped duplicate": strings.Replace(c, "{", `{"\u0072oles":["admin"],`, 1),
		"duplicate inside": strings.Replace(c, "{", `{"x":{"a":1,"a":2},`, 1), "trailing data": c + c, "no object": "[" + c + "]", "null": "null", "empty": "{}", "no JSON": "roles=admin", "broken UTF-8": strings.Replace(c, "{", "{\"x\":\"\xff\",", 1),
		"too deep": strings.Replace(c, "{", `{"x":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000)+",", 1), "huge": strings.Replace(c, "{", `{"x":"`+strings.Repeat("a", 20_000)+`",`, 1), "a token inside": token("HS256", header("HS256"), sound()),
	} {
		add("claims "+name, rawToken(alg, mustText(header(alg)), text))
	}
}

func spellings(_, good string, add func(name, bad string)) {
	parts := strings.Split(good, ".")
	join := func(p ...string) string { return strings.Join(p, ".") }
	for i, what := range []string{"header", "claims", "signature"} {
		with := func(text string) string {
			p := strings.Split(good, ".")
			p[i] = text
			return join(p...)
		}
		add(what+" padded", with(parts[i]+"="))
		add(what+" with a line break", with(parts[i][:4]+"\n"+parts[i][4:]))
		add(what+" with a return", with(parts[i]+"\r"))
		add(what+" with a space", with(" "+parts[i]))
		add(what+" empty", with(""))
		add(what+" cut", with(parts[i][:len(parts[i])-2]))
		add(what+" with a foreign letter", with(parts[i][:3]+"*"+parts[i][4:]))
		add(what+" with trailing data", with(parts[i]+"AAAA"))
		add(what+" as standard base64", with(strings.Repeat("+/", 2)+parts[i]))
		if last := noncanonical(parts[i]); last != "" {
			add(what+" in another spelling", with(last))
		}
	}
	add("four parts", good+"."+parts[2])
	add("five parts, as encrypted", good+".."+parts[2])
	add("JSON serialisation", `{"payload":"`+parts[1]+`","protected":"`+parts[0]+`","signature":"`+parts[2]+`"}`)
	add("empty", "")
	add("dots", "..")
	add("a byte before", "\x00"+good)
	add("huge", good+strings.Repeat("A", 20_000))
}

// noncanonical is another text that decodes to the same bytes in lax decoders; empty where there is none.
func noncanonical(s string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(s)%4 == 0 {
		return ""
	}
	i := strings.IndexByte(digits, s[len(s)-1])
	return s[:len(s)-1] + string(digits[i^1])
}

func signatures(alg, good string, add func(name, bad string)) {
	parts := strings.Split(good, ".")
	sig, err := segmentText.DecodeString(parts[2])
	if err != nil {
		panic(err)
	}
	with := func(b []byte) string { return parts[0] + "." + parts[1] + "." + b64(b) }
	for i := 0; i < len(sig); i += max(len(sig)/8, 1) {
		b := append([]byte{}, sig...)
		b[i] ^= 1 << (i % 8)
		add(fmt.Sprintf("signature with byte %d changed", i), with(b))
	}
	add("signature of zeros", with(make([]byte, len(sig))))
	add("signature one byte short", with(sig[1:]))
	add("signature one byte long", with(append([]byte{0}, sig...)))
	add("signature twice", with(append(sig, sig...)))
	add("signature of ones", with([]byte(strings.Repeat("\xff", len(sig)))))
	add("other claims under the signature", parts[0]+"."+b64json(sound("roles", []string{"admin"}))+"."+parts[2])
	add("other header under the signature", b64json(header(alg, "x", 1))+"."+parts[1]+"."+parts[2])
	if alg == "ES256" {
		n := elliptic.P256().Params().N.Bytes()
		for name, rs := range map[string][2][]byte{"0, 0": {{}, {}}, "0, s": {{}, sig[32:]}, "r, 0": {sig[:32], {}}, "n, n": {n, n}, "r, n": {sig[:32], n}, "1, 1": {{1}, {1}}} {
			b := make([]byte, 64)
			copy(b[32-len(rs[0]):32], rs[0])
			copy(b[64-len(rs[1]):], rs[1])
			add("signature "+name, with(b))
		}
		input := parts[0] + "." + parts[1]
		digest := sha256.Sum256([]byte(input))
		der, err := ecdsa.SignASN1(rand.Reader, signers().ec, digest[:])
		if err != nil {
			panic(err)
		}
		add("signature in DER", with(der))
		add("signature overlong", with(append(append(make([]byte, 32), sig[:32]...), append(make([]byte, 32), sig[32:]...)...)))
		der, err = ecdsa.SignASN1(rand.Reader, signers().otherEC, digest[:])
		if err != nil {
			panic(err)
		}
		add("signature of another key in DER", with(der))
	}
}

// confusions check a token's signature with a key of another kind.
func confusions() []vector {
	s := signers()
	good := map[string]string{}
	for _, alg := range signedBy {
		good[alg] = token(alg, header(alg), sound())
	}
	var out []vector
	der, err := x509.MarshalPKIXPublicKey(&s.rsa.PublicKey)
	if err != nil {
		panic(err)
	}
	ecDER, err := x509.MarshalPKIXPublicKey(&s.ec.PublicKey)
	if err != nil {
		panic(err)
	}
	for name, secret := range map[string][]byte{
		"modulus": s.rsa.N.Bytes(), "DER": der, "PKCS1": x509.MarshalPKCS1PublicKey(&s.rsa.PublicKey), "PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"JWK": []byte(mustText(rsaJWK("rsa", &s.rsa.PublicKey))), "EC DER": ecDER, "EC PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: ecDER}), "Ed25519": s.ed.Public().(ed25519.PublicKey), "empty": {},
		"base64 modulus": []byte(b64(s.rsa.N.Bytes())),
	} {
		for _, kid := range []any{"rsa", "ec", "ed", nil} {
			input := b64json(object{"alg": "HS256", "typ": "JWT", "kid": kid}) + "." + b64json(sound("roles", []string{"admin"}))
			if kid == nil {
				input = b64json(object{"alg": "HS256", "typ": "JWT"}) + "." + b64json(sound("roles", []string{"admin"}))
			}
			out = append(out, vector{fmt.Sprintf("HS256 with the public key as secret: %s, kid %v", name, kid), input + "." + b64(mac(secret, input)), good["RS256"], false})
		}
	}
	for _, alg := range signedBy { // every algorithm with every other key's kid, and to the other verifier
		for kid := range map[string]bool{"rsa": true, "ec": true, "ed": true} {
			if kids[alg] != kid {
				out = append(out, vector{alg + " with kid " + kid, token(alg, header(alg, "kid", kid), sound()), good["ES256"], false})
			}
		}
		out = append(out, vector{alg + " at the other verifier", good[alg], map[bool]string{true: good["ES256"], false: good["HS256"]}[alg == "HS256"], alg != "HS256"})
	}
	for _, weak := range []string{"", "secret", "password", "your-256-bit-secret", "changeme", "pimoe"} {
		input := b64json(header("HS256")) + "." + b64json(sound())
		out = append(out, vector{"HS256 with the secret " + weak, input + "." + b64(mac([]byte(weak), input)), good["HS256"], true})
	}
	return out
}

func TestHostileTokens(t *testing.T) {
	public, symmetric := verifiers(t)
	vectors := hostile()
	if len(vectors) < 200 {
		t.Fatalf("only %d vectors", len(vectors))
	}
	accepted := 0
	for _, v := range vectors {
		by := public
		if v.symmetric {
			by = symmetric
		}
		_, err := by.verify(context.Background(), v.hostile)
		if err == nil {
			accepted++
			t.Errorf("%s: accepted: %.200s", v.name, v.hostile)
			continue
		}
		if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrExpired) {
			t.Errorf("%s: %v is no refusal", v.name, err)
		}
		if len(v.hostile) > 20 && strings.Contains(err.Error(), v.hostile[len(v.hostile)-20:]) {
			t.Errorf("%s: the error quotes the token: %v", v.name, err)
		}
		if _, err := by.verify(context.Background(), v.sound); err != nil {
			t.Errorf("%s: the sound token beside it is refused: %v", v.name, err)
		}
	}
	t.Logf("%d hostile tokens, %d accepted", len(vectors), accepted)
}

// The limits from inside: what is just allowed passes.
func TestSoundTokens(t *testing.T) {
	public, symmetric := verifiers(t)
	at := func(d time.Duration) int64 { return noon.Add(d).Unix() }
	for _, alg := range signedBy {
		by := public
		if alg == "HS256" {
			by = symmetric
		}
		for name, tok := range map[string]string{
			"plain": token(alg, header(alg), sound()), "no typ": token(alg, header(alg, "typ", nil), sound()), "at+jwt": token(alg, header(alg, "typ", "at+jwt"), sound()), "full typ": token(alg, header(alg, "typ", "application/AT+JWT"), sound()),
			"audience list": token(alg, header(alg), sound("aud", []string{"other", "pimoe"})), "expired within leeway": token(alg, header(alg), sound("exp", at(-29*time.Second))), "not before within leeway": token(alg, header(alg), sound("nbf", at(29*time.Second))),
			"fractions": token(alg, header(alg), sound("exp", float64(at(time.Hour))+0.5)), "other parameters": token(alg, header(alg, "x5t", "abc"), sound("scope", "openid")),
		} {
			if _, err := by.verify(context.Background(), tok); err != nil {
				t.Errorf("%s %s: %v", alg, name, err)
			}
		}
	}
}

func TestClaimsBecomeAPrincipal(t *testing.T) {
	m := Mapping{RoleClaim: "realm.roles", TenantClaim: "org", Roles: map[string]string{"platform": "operator", "viewer": "user"}}
	for name, c := range map[string]struct {
		claims object
		want   Principal
		err    error
	}{
		"strongest":    {object{"sub": "a", "org": "x", "realm": object{"roles": []any{"viewer", "platform", "nothing", 5.0}}}, Principal{ID: "token:a", Kind: Token, Tenant: "x", Role: Operator}, nil},
		"one text":     {object{"sub": "a", "org": "x", "realm": object{"roles": "other admin"}}, Principal{ID: "token:a", Kind: Token, Tenant: "x", Role: Admin}, nil},
		"none":         {object{"sub": "a", "org": "x"}, Principal{ID: "token:a", Kind: Token, Tenant: "x"}, nil},
		"capitals":     {object{"sub": "a", "org": "x", "realm": object{"roles": []any{"Admin", "ADMIN", "none"}}}, Principal{ID: "token:a", Kind: Token, Tenant: "x"}, nil},
		"flat name":    {object{"sub": "a", "org": "x", "realm.roles": []any{"viewer"}}, Principal{ID: "token:a", Kind: Token, Tenant: "x", Role: User}, nil},
		"scopes":       {object{"sub": "a", "org": "x", "realm.roles": "viewer", "scope": "openid pimoe:stats pimoe:docs"}, Principal{ID: "token:a", Kind: Token, Tenant: "x", Role: User, Scopes: []string{"stats", "docs"}}, nil},
		"no tenant":    {object{"sub": "a"}, Principal{}, ErrInvalid},
		"bad tenant":   {object{"sub": "a", "org": "a b"}, Principal{}, ErrInvalid},
		"tenant list":  {object{"sub": "a", "org": []any{"x"}}, Principal{}, ErrInvalid},
		"tenant path":  {object{"sub": "a", "org": "../x"}, Principal{}, ErrInvalid},
		"tenant other": {object{"sub": "a", "org": "(other)"}, Principal{}, ErrInvalid},
	} {
		p, err := m.principal(claims(c.claims), Token)
		if !errors.Is(err, c.err) || fmt.Sprintf("%+v", p) != fmt.Sprintf("%+v", c.want) {
			t.Errorf("%s: %+v, %v; want %+v, %v", name, p, err, c.want, c.err)
		}
	}
}

func TestWeakAndBrokenKeysAreRefused(t *testing.T) {
	s := signers()
	weak := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1023, 1), E: 65537}
	change := func(k object, name string, v any) object { k[name] = v; return k }
	for name, set := range map[string][]byte{
		"RSA of 1024 bits": jwks(rsaJWK("a", weak)), "exponent 1": jwks(change(rsaJWK("a", &s.rsa.PublicKey), "e", b64([]byte{1}))), "even exponent": jwks(change(rsaJWK("a", &s.rsa.PublicKey), "e", b64([]byte{4}))),
		"off the curve": jwks(change(ecJWK("a", &s.ec.PublicKey), "y", b64(make([]byte, 32)))), "short x": jwks(change(ecJWK("a", &s.ec.PublicKey), "x", b64(make([]byte, 31)))),
		"symmetric": jwks(object{"kty": "oct", "k": b64(secret)}), "private": jwks(change(rsaJWK("a", &s.rsa.PublicKey), "d", "AQ")), "same kid": jwks(rsaJWK("a", &s.rsa.PublicKey), ecJWK("a", &s.ec.PublicKey)),
		"none": jwks(), "other use": jwks(change(rsaJWK("a", &s.rsa.PublicKey), "use", "enc")), "no verify": jwks(change(rsaJWK("a", &s.rsa.PublicKey), "key_ops", []string{"encrypt"})), "alg of another type": jwks(change(rsaJWK("a", &s.rsa.PublicKey), "alg", "ES256")),
		"duplicate name": []byte(`{"keys":[],"keys":[]}`), "no JSON": []byte("keys"), "no list": []byte(`{"keys":{}}`), "short Ed25519": jwks(edJWK("a", make([]byte, 31))), "huge": make([]byte, maxKeySet+1),
	} {
		if _, err := ParseKeySet(set, Asymmetric); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for _, short := range []string{"", "short", strings.Repeat("x", 31), strings.Repeat("a", 64), "changemechangemechangemechangeme"} {
		if _, err := SecretKey([]byte(short), []string{"HS256"}); err == nil {
			t.Errorf("secret %q: taken", short)
		}
	}
	if _, err := SecretKey(secret, []string{"HS512"}); err == nil {
		t.Error("32 bytes for HS512: taken")
	}
}

// The cache asks the issuer no more often than it may, whatever tokens name, takes a new key at once when it may, and
// lives on what it has for a bounded time.
func TestKeysAreCached(t *testing.T) {
	now, calls := noon, 0
	var failing error
	s := signers()
	set, err := ParseKeySet(jwks(rsaJWK("rsa", &s.rsa.PublicKey)), Asymmetric)
	if err != nil {
		t.Fatal(err)
	}
	src := &cachedKeys{cached[KeySet]{now: func() time.Time { return now }, warn: func(string, ...any) {}, what: "keys", fetch: func(context.Context) (KeySet, error) { calls++; return set, failing }}}
	e := want(Asymmetric)
	v := newVerifier(src, e)
	try := func(alg string) error {
		_, err := v.verify(context.Background(), token(alg, header(alg), sound()))
		return err
	}
	step := func(after time.Duration, alg string, class error, fetches int) {
		t.Helper()
		now = now.Add(after)
		if err := try(alg); !errors.Is(err, class) || calls != fetches {
			t.Errorf("at %s %s: %v after %d fetches, want %v after %d", now.Sub(noon), alg, err, calls, class, fetches)
		}
	}
	step(0, "RS256", nil, 1)
	step(time.Second, "RS256", nil, 1)
	step(time.Second, "ES256", ErrInvalid, 1) // unknown kid, but the last fetch was just now
	for range 100 {
		step(0, "ES256", ErrInvalid, 1)
	}
	set = testSet(t) // rotated
	step(keysRetry, "ES256", nil, 2)
	step(keysFresh, "RS256", nil, 3)
	failing = errors.New("down")
	step(keysFresh, "RS256", nil, 4) // stale, but taken
	step(time.Second, "RS256", nil, 4)
	step(keysRetry, "RS256", nil, 5)
	now = noon.Add(keysRetry + keysFresh + 3*time.Second).Add(keysStale)
	step(0, "RS256", ErrUnknowable, 6)
	failing = nil
	step(keysRetry, "RS256", nil, 7)

	now = now.Add(keysFresh)
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			if err := try("RS256"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if calls != 8 {
		t.Errorf("32 at once: %d fetches, want 1", calls-7)
	}
}

func FuzzToken(f *testing.F) {
	public, symmetric := verifiers(f)
	for i, v := range hostile() {
		if i%7 == 0 {
			f.Add(v.hostile)
		}
	}
	good := map[string]bool{}
	for _, alg := range signedBy {
		tok := token(alg, header(alg), sound())
		good[tok[:strings.LastIndex(tok, ".")]] = true // whoever signs again, as PS256 does, signs the same
		f.Add(tok)
	}
	f.Fuzz(func(t *testing.T, tok string) {
		for _, v := range []*verifier{public, symmetric} {
			if _, err := v.verify(context.Background(), tok); err == nil && !good[tok[:strings.LastIndex(tok, ".")]] {
				t.Errorf("accepted %q", tok)
			} else if err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrExpired) {
				t.Errorf("%v is no refusal", err)
			}
		}
	})
}

func FuzzKeySet(f *testing.F) {
	s := signers()
	f.Add(jwks(rsaJWK("rsa", &s.rsa.PublicKey), ecJWK("ec", &s.ec.PublicKey)))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		set, err := ParseKeySet(b, Asymmetric)
		if err == nil && len(set.keys) == 0 {
			t.Error("a set without keys")
		}
	})
}
