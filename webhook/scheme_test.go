package webhook

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

const (
	testSecret    = "a secret of more than 16 bytes"
	rotatedSecret = "another secret, no longer sent"
	testWhsec     = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

func source(t testing.TB, cfg SourceConfig) *Source {
	t.Helper()
	src, err := NewSource("test", cfg)
	if err != nil {
		t.Fatalf("NewSource(test) = %v", err)
	}
	return src
}

// settings are configurations of every scheme, with the options that change
// what is signed.
func settings() map[string]SourceConfig {
	b64 := func(s string) string { return "whsec_" + base64.StdEncoding.EncodeToString([]byte(s)) }
	return map[string]SourceConfig{
		"hmac":              {CMS: "generic", Scheme: "hmac", Secret: testSecret},
		"hmac sha1 prefix":  {CMS: "generic", Scheme: "hmac", Secret: testSecret, Hash: "sha1", Prefix: "sha1=", Header: "x-hub-signature"},
		"hmac sha512 b64":   {CMS: "generic", Scheme: "hmac", Secret: testSecret, Hash: "sha512", Encoding: "base64"},
		"hmac seconds":      {CMS: "generic", Scheme: "hmac", Secret: testSecret, SignedPayload: "{timestamp}.{body}"},
		"hmac ms":           {CMS: "generic", Scheme: "hmac", Secret: testSecret, SignedPayload: "{body}{timestamp}", TimestampUnit: "ms", TimestampHeader: "X-T"},
		"hmac id":           {CMS: "generic", Scheme: "hmac", Secret: testSecret, SignedPayload: "v1:{id}:{body}", DeliveryIDHeader: "X-Id"},
		"token":             {CMS: "generic", Scheme: "token", Secret: testSecret},
		"token header":      {CMS: "generic", Scheme: "token", Secret: testSecret, Header: "X-Api-Key"},
		"token not ASCII":   {CMS: "generic", Scheme: "token", Secret: "ein Schlüssel mit ß und 日本", Header: "X-Api-Key"},
		"basic":             {CMS: "generic", Scheme: "basic", Secret: "ada:p:ss word, a long one"},
		"basic, name apart": {CMS: "generic", Scheme: "basic", Username: "ada", Password: "p:ss word, a long one"},
		"query-token":       {CMS: "generic", Scheme: "query-token", Secret: "a&b=c d+e%f?g#h; long enough", EventHeader: "X-Event"},
		"query-token ghost": {CMS: "ghost", Scheme: "query-token", Secret: testSecret, Param: "key"},
		"body-secret":       {CMS: "generic", Scheme: "body-secret", Secret: testSecret},
		"body-secret deep":  {CMS: "generic", Scheme: "body-secret", Secret: testSecret, Path: "data.auth.secret"},
		"standardwebhooks":  {CMS: "standardwebhooks", Secret: testWhsec},
		"svix headers":      {CMS: "generic", Scheme: "standardwebhooks", HeaderPrefix: "svix", Secret: b64("a key of 24 bytes or more")},
		"ghost":             {CMS: "ghost", Secret: testSecret},
		"svix":              {CMS: "svix", Secret: testWhsec},
		"contentful":        {CMS: "contentful", Secret: testSecret},
		"contentful proxy":  {CMS: "contentful", Secret: testSecret, SignedPath: "/öffentlich/cms?site=b%20c"},
		"sanity":            {CMS: "sanity", Secret: testSecret},
		"hygraph":           {CMS: "hygraph", Secret: testSecret},
		"webflow":           {CMS: "webflow", Secret: testSecret},
		"contentstack":      {CMS: "contentstack", Secret: testSecret},
		"kontent":           {CMS: "kontent", Secret: testSecret},
		"storyblok":         {CMS: "storyblok", Secret: testSecret},
		"woocommerce":       {CMS: "woocommerce", Secret: testSecret},
		"shopify":           {CMS: "shopify", Secret: testSecret},
		"github":            {CMS: "github", Secret: testSecret, ContentDir: "content"},
		"drupal":            {CMS: "drupal", Secret: testSecret, Paths: Paths{ID: "entity.nid.0.value"}},
		"drupal sha256":     {CMS: "drupal", Secret: testSecret, Header: "X-Drupal-Webhooks-Signature", Paths: Paths{ID: "entity.nid.0.value"}},
	}
}

// samples are the entities of the rows' samples.
var samples = map[string]string{
	"contentful": "5KsDBWseXY6QegucYAoacS", "sanity": "post-42", "hygraph": "ckw1abc0001", "webflow": "64d4d0e6a1b2c3d4e5f60718",
	"contentstack": "blt11111111111111b2", "kontent": "aa7f127f-1920-4454-a89a-0609aba8ea6f", "storyblok": "440044", "woocommerce": "794",
	"shopify": "788032119674292922", "github": "content/posts/hello.md", "drupal": "12",
}

// withOtherSecret returns cfg with a secret that is not its own.
func withOtherSecret(cfg SourceConfig) SourceConfig {
	switch {
	case cfg.Password != "":
		cfg.Password = "another password, long"
	case cfg.Scheme == "basic":
		cfg.Secret = "ada:another password, long"
	case strings.HasPrefix(cfg.Secret, "whsec_"):
		cfg.Secret = "whsec_YW4tb2RkLWxlbmd0aC1rZXktZm9yLXRlc3RzISE="
	default:
		cfg.Secret = rotatedSecret
	}
	return cfg
}

func TestSignedDeliveryVerifiesInEveryScheme(t *testing.T) {
	covered := map[string]bool{"none": true, "contentstack-rsa-pss": true} // nobody but Contentstack signs the latter
	for name, cfg := range settings() {
		t.Run(name, func(t *testing.T) {
			src := source(t, cfg)
			covered[src.scheme.name] = true
			d, err := src.Sign(src.Sample(), "", noon)
			if err != nil {
				t.Fatal(err)
			}
			res := src.Verify(d, noon)
			entity := cmp.Or(samples[cfg.CMS], "1")
			if !res.Valid() || res.Secret != 0 || len(res.Events) != 1 || res.Events[0].Entity != entity {
				t.Fatalf("Verify(Sign) = %+v, want one event of entity %s", res, entity)
			}
			if ev := res.Events[0]; ev.Kind() == "unknown.other" || ev.Name == "" || ev.Action == event.Other {
				t.Errorf("Verify(Sign) = %s, named %q, want to be told what happened", ev.Kind(), ev.Name)
			}
			if _, err := d.NewRequest(t.Context(), "http://127.0.0.1:8080/"); err != nil {
				t.Errorf("NewRequest = %v", err)
			}
		})
	}
	for _, sc := range schemes {
		if !covered[sc.name] {
			t.Errorf("scheme %s has no setting in this test", sc.name)
		}
	}
}

func TestUnsignedDeliveryIsRefusedInEveryScheme(t *testing.T) {
	for name, cfg := range settings() {
		src := source(t, cfg)
		d := Delivery{Method: "POST", Target: "/webhooks/test", Body: src.Sample()}
		res := src.Verify(d, noon)
		if res.Valid() || res.SignatureOK || res.Secret != -1 || !strings.HasPrefix(string(res.Reason), "missing_") {
			t.Errorf("%s: Verify(unsigned) = %+v, want missing_…", name, res)
		}
	}
}

func TestOtherSecretIsRefusedInEveryScheme(t *testing.T) {
	for name, cfg := range settings() {
		other := withOtherSecret(cfg)
		d, err := source(t, other).Sign(source(t, cfg).Sample(), "", noon)
		if err != nil {
			t.Fatal(err)
		}
		src := source(t, cfg)
		if res := src.Verify(d, noon); res.Valid() || res.SignatureOK || !strings.HasPrefix(string(res.Reason), "bad_") {
			t.Errorf("%s: Verify(other secret) = %+v, want bad_…", name, res)
		}

		rotating := cfg
		rotating.PreviousSecrets = []string{"", other.Secret}
		if cfg.Password != "" {
			rotating.PreviousSecrets = []string{other.Password}
		}
		if res := source(t, rotating).Verify(d, noon); !res.Valid() || res.Secret != 1 {
			t.Errorf("%s: Verify(previous secret) = %+v, want valid by secret 1", name, res)
		}
	}
}

func TestChangedBodyIsRefusedWhereBodiesAreSigned(t *testing.T) {
	for name, cfg := range settings() {
		src := source(t, cfg)
		if src.newHash == nil {
			continue
		}
		d, _ := src.Sign(src.Sample(), "", noon)
		d.Body = append(slices.Clone(d.Body), ' ')
		if res := src.Verify(d, noon); res.Reason != BadSignature {
			t.Errorf("%s: one space more: %q, want bad_signature", name, res.Reason)
		}
	}
}

func TestAgeIsJudgedAfterTheSignatureAndEqualIsAccepted(t *testing.T) {
	const tolerance = 5 * time.Minute
	for name, cfg := range settings() {
		src := source(t, cfg)
		d, _ := src.Sign(src.Sample(), "", noon)
		signsTime := !src.scheme.verify(src, d).sentAt.IsZero()
		for _, tc := range []struct {
			now  time.Time
			want Reason
		}{
			{noon.Add(tolerance), ""},
			{noon.Add(tolerance + time.Millisecond), StaleTimestamp},
			{noon.Add(-tolerance), ""},
			{noon.Add(-tolerance - time.Millisecond), FutureTimestamp},
		} {
			want := tc.want
			if !signsTime {
				want = ""
			}
			if res := src.Verify(d, tc.now); res.Reason != want || !res.SignatureOK {
				t.Errorf("%s: seen %v after signing: %q, want %q", name, tc.now.Sub(noon), res.Reason, want)
			}
		}
		if signsTime {
			d.Body = append(slices.Clone(d.Body), ' ')
			if res := src.Verify(d, noon.Add(time.Hour)); res.Reason != BadSignature {
				t.Errorf("%s: changed and stale: %q, want bad_signature", name, res.Reason)
			}
		}
	}
}

func TestTimesOfAnyOtherFormAreMalformed(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, SignedPayload: "{timestamp}.{body}"})
	for _, text := range []string{"now", "-1", "+1", "1.5", "1e9", "0x10", "1 2", "１", "12345678901234567", "9999999999999999999999"} {
		d, _ := src.Sign(src.Sample(), "", noon)
		d.Header.Set("X-Webhook-Timestamp", text)
		if res := src.Verify(d, noon); res.Reason != MalformedSignature {
			t.Errorf("timestamp %q: %q, want malformed_signature", text, res.Reason)
		}
	}
	d, _ := src.Sign(src.Sample(), "", time.Unix(9999999999999999, 0))
	if res := src.Verify(d, noon); res.Reason != FutureTimestamp {
		t.Errorf("the largest time: %q, want future_timestamp", res.Reason)
	}
}

func TestSecretInTheBodyDoesNotTravelOn(t *testing.T) {
	for _, path := range []string{"secret", "data.auth.secret", "data.auth.0"} {
		src := source(t, SourceConfig{CMS: "generic", Scheme: "body-secret", Secret: testSecret, Path: path})
		body := `{"type":"post.updated","secret":"x","data":{"id":9007199254740993,"auth":["y"]}}`
		if strings.HasSuffix(path, ".secret") {
			body = `{"type":"post.updated","data":{"id":9007199254740993}}`
		}
		d, err := src.Sign([]byte(body), "", noon)
		if err != nil {
			t.Fatal(err)
		}
		res := src.Verify(d, noon)
		if len(res.Events) != 1 {
			t.Fatalf("%s: Verify = %+v, want one event", path, res)
		}
		payload := string(res.Events[0].Payload)
		if strings.Contains(payload, testSecret) || !strings.Contains(payload, "9007199254740993") || !json.Valid(res.Events[0].Payload) {
			t.Errorf("%s: payload %s, want all but the secret", path, payload)
		}
	}
}

func TestTokenSchemesNameWhatIsWrong(t *testing.T) {
	type testCase struct {
		cfg    SourceConfig
		change func(*Delivery)
		want   Reason
	}
	set := func(name, value string) func(*Delivery) { return func(d *Delivery) { d.Header.Set(name, value) } }
	target := func(s string) func(*Delivery) { return func(d *Delivery) { d.Target = s } }
	body := func(s string) func(*Delivery) { return func(d *Delivery) { d.Body = []byte(s) } }
	bearer := SourceConfig{CMS: "generic", Scheme: "token", Secret: testSecret}
	basic := SourceConfig{CMS: "generic", Scheme: "basic", Secret: "ada:a password of some length"}
	query := SourceConfig{CMS: "generic", Scheme: "query-token", Secret: testSecret}
	field := SourceConfig{CMS: "generic", Scheme: "body-secret", Secret: testSecret}
	quoted := url.QueryEscape(testSecret)
	for i, tc := range []testCase{
		{bearer, set("Authorization", ""), MissingToken},
		{bearer, set("Authorization", "Bearer"), MissingToken},
		{bearer, set("Authorization", "Bearer  "), MissingToken},
		{bearer, set("Authorization", "bearer  "+testSecret+" "), ""},
		{bearer, set("Authorization", testSecret), BadToken},
		{bearer, set("Authorization", "Bearer "+testSecret+"x"), BadToken},
		{bearer, set("Authorization", "Bearer "+testSecret[1:]), BadToken},
		{basic, set("Authorization", "Basic"), BadToken},
		{basic, set("Authorization", "Basic ***"), BadToken},
		{basic, set("Authorization", "Bearer YWRh"), BadToken},
		{query, target("/webhooks/test?token="), MissingToken},
		{query, target("/webhooks/test?token=%zz"), MissingToken},
		{query, target("/webhooks/test?Token=" + quoted), MissingToken},
		{query, target("/webhooks/test?a=b&token=" + quoted), ""},
		{query, target("/webhooks/test?token=" + quoted + "&token=x"), BadToken},
		{query, target("/webhooks/test?token=x&token=" + quoted), BadToken},
		{field, body(`[]`), MissingToken},
		{field, body(`{"secret":null}`), MissingToken},
		{field, body(`{"secret":""}`), MissingToken},
		{field, body(`{"secret":1}`), BadToken},
		{field, body(`{"secret":["` + testSecret + `"]}`), BadToken},
		{field, body(`{"secret":"x","type":"a.updated","secret":"` + testSecret + `"}`), ""},
	} {
		src := source(t, tc.cfg)
		d, _ := src.Sign(src.Sample(), "", noon)
		tc.change(&d)
		if res := src.Verify(d, noon); res.Reason != tc.want {
			t.Errorf("case %d, %s: %q (%v), want %q", i, tc.cfg.Scheme, res.Reason, res.Err, tc.want)
		}
	}
}

func TestHMACSchemesNameWhatIsWrong(t *testing.T) {
	prefixed := SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, Prefix: "sha256="}
	standard := SourceConfig{CMS: "standardwebhooks", Secret: testWhsec}
	ghost := SourceConfig{CMS: "ghost", Secret: testSecret}
	upper := func(s string) string { return strings.ReplaceAll(strings.ToUpper(s), "SHA256=", "sha256=") }
	for i, tc := range []struct {
		cfg    SourceConfig
		header string
		change func(string) string
		want   Reason
	}{
		{prefixed, "X-Webhook-Signature", upper, ""},
		{prefixed, "X-Webhook-Signature", func(s string) string { return "  " + s + "\t" }, ""},
		{prefixed, "X-Webhook-Signature", func(s string) string { return s[7:] }, MalformedSignature},
		{prefixed, "X-Webhook-Signature", func(s string) string { return s[:20] }, BadSignature},
		{prefixed, "X-Webhook-Signature", func(s string) string { return s + "00" }, BadSignature},
		{prefixed, "X-Webhook-Signature", func(s string) string { return "sha256=" }, BadSignature},
		{prefixed, "X-Webhook-Signature", func(s string) string { return "sha256=zz" }, BadSignature},
		{standard, "Webhook-Signature", func(s string) string { return "v1a,AAAA " + s + " v2,BBBB" }, ""},
		{standard, "Webhook-Signature", func(s string) string { return strings.TrimRight(s, "=") }, ""},
		{standard, "Webhook-Signature", func(s string) string { return "v1," }, BadSignature},
		{standard, "Webhook-Signature", func(s string) string { return s[3:] }, MalformedSignature},
		{standard, "Webhook-Signature", func(s string) string { return strings.Repeat("v1,AAAA ", 200) + s }, ""},
		{standard, "Webhook-Id", func(s string) string { return s + "x" }, BadSignature},
		{standard, "Webhook-Timestamp", func(s string) string { return "" }, MissingSignature},
		{ghost, "X-Ghost-Signature", func(s string) string { return strings.Replace(s, ", ", ",", 1) }, ""},
		{ghost, "X-Ghost-Signature", func(s string) string { return strings.Replace(s, "t=", "t=1", 1) }, BadSignature},
		{ghost, "X-Ghost-Signature", func(s string) string { return s + ", x=1" }, MalformedSignature},
		{ghost, "X-Ghost-Signature", func(s string) string { return "sha256=zz, t=1795176000000" }, BadSignature},
	} {
		src := source(t, tc.cfg)
		d, _ := src.Sign(src.Sample(), "", noon)
		d.Header.Set(tc.header, tc.change(d.Header.Get(tc.header)))
		if res := src.Verify(d, noon); res.Reason != tc.want {
			t.Errorf("case %d: %s: %q: %q (%v), want %q", i, tc.header, d.Header.Get(tc.header), res.Reason, res.Err, tc.want)
		}
	}
}

func TestRepeatHasTheSameIDAndASecondSaveAnother(t *testing.T) {
	sign := func(cfg SourceConfig, at time.Time) (*Source, Delivery) {
		src := source(t, cfg)
		d, err := src.Sign(src.Sample(), "", at)
		if err != nil {
			t.Fatal(err)
		}
		return src, d
	}
	id := func(src *Source, d Delivery, at time.Time) string {
		res := src.Verify(d, at)
		if len(res.Events) != 1 {
			t.Fatalf("Verify = %+v, want one event", res)
		}
		return res.Events[0].ID
	}

	named := settings()["hmac id"]
	src, d := sign(named, noon)
	_, second := sign(named, noon)
	if id(src, d, noon) != id(src, d, noon.Add(time.Hour)) || id(src, d, noon) == id(src, second, noon) {
		t.Error("with a delivery id: the same id must repeat at any time, another must not")
	}

	timed := settings()["ghost"]
	src, d = sign(timed, noon)
	_, second = sign(timed, noon.Add(time.Millisecond))
	if id(src, d, noon) != id(src, d, noon.Add(4*time.Minute)) || id(src, d, noon) == id(src, second, noon) {
		t.Error("with a signed time: a replay must repeat, a save 1 ms later must not")
	}

	plain := settings()["hmac"]
	src, d = sign(plain, noon)
	if id(src, d, noon) != id(src, d, noon.Add(9999*time.Millisecond)) {
		t.Error("with neither: the same bytes within the window of 10s must repeat")
	}
	if id(src, d, noon) == id(src, d, noon.Add(10*time.Second)) {
		t.Error("with neither: the same bytes after the window must be a new event")
	}
	otherBody, otherName := d, d
	otherBody.Body = append(slices.Clone(d.Body), ' ')
	if resigned, _ := src.Sign(otherBody.Body, "", noon); id(src, d, noon) == id(src, resigned, noon) {
		t.Error("with neither: other bytes must be a new event")
	}
	ghost := settings()["query-token ghost"]
	src, d = sign(ghost, noon)
	otherName.Target, otherName.Body = strings.Replace(d.Target, "post.published", "post.unpublished", 1), d.Body
	if id(src, d, noon) == id(src, otherName, noon) {
		t.Error("with neither: another event with the same bytes must be a new event")
	}
	plain.DedupeWindow = time.Minute
	src, d = sign(plain, noon)
	if id(src, d, noon) != id(src, d, noon.Add(59*time.Second)) {
		t.Error("dedupe_window of 1m must hold for 59s")
	}
}

// Equal bytes are a repeat or a second save; who cannot tell must say so.
func TestGuessIsCalledAGuess(t *testing.T) {
	withID := SourceConfig{CMS: "generic", Scheme: "hmac", Secret: testSecret, DeliveryIDHeader: "X-Id"}
	for _, tc := range []struct {
		name  string
		cfg   SourceConfig
		id    string
		after time.Duration // from signing to receiving
		want  bool
	}{
		{"delivery id", withID, "d-1", 0, false},
		{"delivery id missing", withID, "", 0, true},
		{"nothing", settings()["hmac"], "", 0, true},
		{"milliseconds", settings()["hmac ms"], "", 0, true}, // noon has none
		{"milliseconds, not noon", settings()["hmac ms"], "", 7 * time.Millisecond, true},
		{"seconds", settings()["hmac seconds"], "", time.Second, true},
		{"seconds of a slow clock", settings()["hmac seconds"], "", 10 * time.Second, true},
	} {
		src := source(t, tc.cfg)
		d, err := src.Sign(src.Sample(), "", noon)
		if err != nil {
			t.Fatal(err)
		}
		if tc.id != "" {
			d.Header.Set("X-Id", tc.id)
		} else {
			d.Header.Del("X-Id")
		}
		res := src.Verify(d, noon.Add(tc.after))
		if !res.Valid() || res.Events[0].Guessed != tc.want {
			t.Errorf("%s: Verify = %q, %+v, want guessed = %v", tc.name, res.Reason, res.Events, tc.want)
		}
	}
}

func TestSchemeNoneAcceptsAndWarns(t *testing.T) {
	src := source(t, SourceConfig{CMS: "generic", Scheme: "none"})
	res := src.Verify(Delivery{Method: "POST", Target: "/", Body: src.Sample()}, noon)
	if !res.Valid() || res.Secret != -1 || len(src.Warnings()) != 1 {
		t.Errorf("Verify = %+v, warnings %q, want valid and one warning", res, src.Warnings())
	}
}
