package webhook

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshwire/freshwire/internal/testkit"
)

func expiry(t testing.TB, text string) Expiry {
	t.Helper()
	var e Expiry
	if err := e.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestExpiryIsADayOrATime(t *testing.T) {
	at := func(text string) time.Time {
		moment, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return moment
	}
	for _, tc := range []struct {
		text string
		now  string
		want bool
	}{
		{"2026-12-31", "2026-12-31T23:59:59Z", false},
		{"2026-12-31", "2027-01-01T00:00:00Z", true},
		{"2026-12-31", "2027-01-01T00:30:00+01:00", false}, // the day is one of UTC
		{"2026-12-31T18:00:00Z", "2026-12-31T17:59:59Z", false},
		{"2026-12-31T18:00:00Z", "2026-12-31T18:00:00Z", true},
		{"", "2126-12-31T18:00:00Z", false},
	} {
		if got := expiry(t, tc.text).over(at(tc.now)); got != tc.want {
			t.Errorf("%q over at %s = %v, want %v", tc.text, tc.now, got, tc.want)
		}
	}
	for _, text := range []string{"soon", "2026-13-01", "2026-02-30", "31.12.2026", "2026-12-31 18:00", "1798700400"} {
		if err := new(Expiry).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("expires %q is read, want an error", text)
		}
	}
}

// listed is a source with secrets that ended yesterday, end within the notice,
// and never; secret is the usual one when current is true.
func listed(t testing.TB, cfg SourceConfig, current bool) *Source {
	if current {
		cfg.Secret = testSecret
	}
	cfg.Secrets = []SecretConfig{
		{Label: "gone", Secret: "the secret of last month", Expires: expiry(t, noon.AddDate(0, 0, -1).Format(time.DateOnly))},
		{Label: "soon", Secret: "the secret of this month", Expires: expiry(t, noon.AddDate(0, 0, 13).Format(time.DateOnly))},
		{Label: "next", Secret: "the secret of next month"},
	}
	return source(t, cfg)
}

func TestAnySecretIsAcceptedUntilItEnds(t *testing.T) {
	for _, cfg := range []SourceConfig{{CMS: "generic", Scheme: "hmac"}, {CMS: "ghost"}, {CMS: "generic", Scheme: "token"}, {CMS: "generic", Scheme: "query-token"}} {
		src := listed(t, cfg, true)
		for _, tc := range []struct{ secret, label string }{
			{testSecret, "secret"}, {"the secret of this month", "soon"}, {"the secret of next month", "next"}, {"the secret of last month", ""},
		} {
			cfg.Secret = tc.secret
			d := sign(t, source(t, cfg), src.cms.sample, "")
			res := src.Verify(d, noon)
			if res.Valid() != (tc.label != "") || res.SecretLabel != tc.label || res.SignatureOK != (res.Secret >= 0) {
				t.Errorf("%s signed with %q: %q, label %q, secret %d, want label %q", src.scheme.name, tc.secret, res.Reason, res.SecretLabel, res.Secret, tc.label)
			}
			if tc.label != "" {
				continue
			}
			day := noon.AddDate(0, 0, -1).Format(time.DateOnly)
			if res.Reason != BadSignature && res.Reason != BadToken || res.Err.Error() != "made by the secret gone, which expired on "+day {
				t.Errorf("%s signed with an expired secret: %q, %v, want its label and end", src.scheme.name, res.Reason, res.Err)
			}
		}
	}
}

// A sender that is being moved signs with both secrets.
func TestSignatureOfAnExpiredSecretDoesNotSpoilAnother(t *testing.T) {
	cfg := SourceConfig{CMS: "standardwebhooks", Secrets: []SecretConfig{
		{Label: "old", Secret: testWhsec, Expires: expiry(t, "2020-01-01")},
		{Label: "new", Secret: "whsec_" + strings.Repeat("QUJD", 8), Expires: expiry(t, "2126-01-01")},
	}}
	src := source(t, cfg)
	d := sign(t, source(t, SourceConfig{CMS: "standardwebhooks", Secret: testWhsec}), src.cms.sample, "")
	old := d.Header.Get("Webhook-Signature")
	if res := src.Verify(d, noon); res.Valid() {
		t.Fatalf("signed with the old one alone: valid, want %q", BadSignature)
	}
	moved := source(t, SourceConfig{CMS: "standardwebhooks", Secret: cfg.Secrets[1].Secret})
	if err := moved.scheme.sign(moved, &d, noon); err != nil { // the same id and time, so the first signature stays good
		t.Fatal(err)
	}
	both := d
	both.Header = d.Header.Clone()
	both.Header.Set("Webhook-Signature", old+" "+d.Header.Get("Webhook-Signature"))
	if res := src.Verify(both, noon); !res.Valid() || res.SecretLabel != "new" {
		t.Errorf("signed with both: %q %v, label %q, want valid by new", res.Reason, res.Err, res.SecretLabel)
	}
	// The same text twice counts for as long as one of them does.
	twice := source(t, SourceConfig{CMS: "generic", Scheme: "token", Secrets: []SecretConfig{
		{Label: "a", Secret: testSecret, Expires: expiry(t, "2020-01-01")}, {Label: "b", Secret: testSecret, Expires: expiry(t, "2126-01-01")}}})
	if res := twice.Verify(sign(t, twice, twice.cms.sample, ""), noon); res.SecretLabel != "b" {
		t.Errorf("a secret that stands there twice: %q by %q, want it valid by b", res.Reason, res.SecretLabel)
	}
}

func TestFirstSecretWithoutAnEndSigns(t *testing.T) {
	src := listed(t, SourceConfig{CMS: "generic", Scheme: "token"}, false)
	d := sign(t, src, src.cms.sample, "")
	if got := d.Header.Get("Authorization"); got != "Bearer the secret of next month" {
		t.Errorf("signed with %q, want the one that never ends", got)
	}
}

func TestEndOfASecretIsToldFourteenDaysBefore(t *testing.T) {
	src := listed(t, SourceConfig{CMS: "generic", Scheme: "hmac"}, true)
	told := func(now time.Time) string { return strings.Join(src.ExpiryWarnings(now), "\n") }
	if got := told(noon.AddDate(0, -2, 0)); got != "" {
		t.Errorf("two months before: %q, want nothing", got)
	}
	got := told(noon)
	if !strings.Contains(got, "sources.test.secrets: gone expired on ") || !strings.Contains(got, "soon expires on ") || strings.Contains(got, ": next") || strings.Contains(got, "the secret") {
		t.Errorf("ExpiryWarnings = %q, want those that ended or end soon, and no secret", got)
	}
	ended := source(t, SourceConfig{CMS: "ghost", Secrets: []SecretConfig{{Label: "only", Secret: testSecret, Expires: expiry(t, "2020-01-01")}}})
	if got := strings.Join(ended.ExpiryWarnings(noon), "\n"); !strings.Contains(got, "all have expired") {
		t.Errorf("ExpiryWarnings = %q, want that nothing is accepted any more", got)
	}
}

func TestMistakesOfListedSecretsAreNamed(t *testing.T) {
	one := SecretConfig{Label: "a", Secret: testSecret}
	for _, tc := range []struct {
		cfg  SourceConfig
		want string
	}{
		{SourceConfig{CMS: "ghost", Secrets: []SecretConfig{one, one}}, `sources.test.secrets[1].label: "a" names another secret already`},
		{SourceConfig{CMS: "ghost", Secrets: []SecretConfig{{Label: "secret", Secret: testSecret}}}, `sources.test.secrets[0].label: "secret" names another secret already`},
		{SourceConfig{CMS: "ghost", Secrets: []SecretConfig{{Label: "a b", Secret: testSecret}}}, `sources.test.secrets[0].label: "a b" is not 1 to 64`},
		{SourceConfig{CMS: "ghost", Secrets: []SecretConfig{{Label: "a"}}}, "sources.test.secret: is empty"},
		{SourceConfig{CMS: "ghost", Secrets: make([]SecretConfig, 9)}, "sources.test.secrets: holds 9, at most 8"},
		{SourceConfig{CMS: "generic", Scheme: "none", Secrets: []SecretConfig{one}}, "sources.test.secrets: means nothing with scheme none"},
		{SourceConfig{CMS: "standardwebhooks", Secrets: []SecretConfig{{Label: "a", Secret: "***"}}}, "sources.test.secrets[0].secret: is not base64"},
		{SourceConfig{CMS: "ghost", Secret: testSecret, Burst: -1}, "sources.test.burst: -1 is not between"},
		{SourceConfig{CMS: "ghost", Secret: testSecret, Allow: []string{"10.0.0.0/8", "10.0.0.0/33"}}, `sources.test.allow[1]: "10.0.0.0/33" is neither`},
	} {
		_, err := NewSource("test", tc.cfg)
		if err == nil || !slices.ContainsFunc(strings.Split(err.Error(), "\n"), func(l string) bool { return strings.HasPrefix(l, tc.want) }) {
			t.Errorf("NewSource says %v, want %q", err, tc.want)
		}
	}
	if src := source(t, SourceConfig{CMS: "ghost", Secret: testSecret, Secrets: []SecretConfig{{Label: "a"}}}); len(src.Warnings()) != 1 {
		t.Errorf("Warnings = %q, want one of the empty secret", src.Warnings())
	}
}

func TestUseOfASecretIsCountedByItsLabel(t *testing.T) {
	src := listed(t, SourceConfig{CMS: "generic", Scheme: "token"}, true)
	o := open(t, src)
	for _, secret := range []string{testSecret, "the secret of next month", "the secret of next month", "the secret of last month"} {
		o.post(t, sign(t, source(t, SourceConfig{CMS: "generic", Scheme: "token", Secret: secret}), src.cms.sample, ""))
	}
	for label, want := range map[string]float64{"secret": 1, "next": 2, "gone": 0} {
		if n := o.counted(t, "freshwire_webhook_secret_used_total", map[string]string{"source": "test", "label": label}); n != want {
			t.Errorf("%s counted %v times, want %v", label, n, want)
		}
	}
	if !strings.Contains(o.log.String(), `"secret":"next"`) || !strings.Contains(o.log.String(), "the secret gone, which expired on") || strings.Contains(o.log.String(), testSecret) {
		t.Errorf("log %s, want labels and no secrets", o.log)
	}
}

// 1 a source accepts old and new, 2 the sender is moved, 3 old goes: over and
// over, while eight senders send. None of their deliveries may be refused.
func TestSecretsRotatedUnderLoadRefuseNothing(t *testing.T) {
	accept := func(current string, previous ...string) *Source {
		return source(t, SourceConfig{CMS: "ghost", Secret: current, PreviousSecrets: previous, Rate: Unlimited})
	}
	secretOf := func(n int) string { return fmt.Sprintf("secret number %d of this test", n) }
	q := &queue{}
	h := NewHandler([]*Source{accept(secretOf(0))}, q.enqueue, testkit.Discard(), Config{})

	var sender atomic.Pointer[Source] // who signs as the CMS does now
	sender.Store(accept(secretOf(0)))
	var underway sync.RWMutex // held for reading from signing to the answer
	var sent, refused atomic.Int64
	done := make(chan struct{})
	var senders sync.WaitGroup
	for n := range 8 {
		senders.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				underway.RLock()
				d, err := sender.Load().Sign(fmt.Appendf(nil, `{"post":{"current":{"id":"%d-%d"},"previous":{}}}`, n, i%10), "", time.Now())
				if err != nil {
					t.Error(err)
				}
				if w := deliver(h, d, "192.0.2.1:1"); w.Code != http.StatusOK {
					refused.Add(1)
				}
				underway.RUnlock()
				sent.Add(1)
			}
		})
	}
	for n := range 50 {
		before := sent.Load()
		h.Replace([]*Source{accept(secretOf(n+1), secretOf(n))})
		sender.Store(accept(secretOf(n + 1)))
		underway.Lock() // deliveries made with the old secret are answered
		h.Replace([]*Source{accept(secretOf(n + 1))})
		underway.Unlock()
		testkit.Until(t, "deliveries between two rotations", func() bool { return sent.Load() > before+8 })
	}
	close(done)
	senders.Wait()
	if refused.Load() > 0 || sent.Load() == 0 {
		t.Errorf("%d of %d deliveries refused while secrets rotated, want 0", refused.Load(), sent.Load())
	}
}
