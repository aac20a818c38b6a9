package webhook

import (
	"net/http"
	"strings"
	"testing"
)

// usual is how a source of a sender is set up when nothing is special about it.
func usual(name string) SourceConfig {
	cfg := SourceConfig{CMS: name, Secret: "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
	switch name {
	case "generic":
		cfg.Scheme = "hmac"
	case "datocms":
		cfg.Username = "dato"
	case "drupal":
		cfg.Paths.ID = "entity.nid.0.value"
	}
	return cfg
}

func TestEverySenderIsDescribedAndItsSampleUnderstood(t *testing.T) {
	described := map[string]bool{}
	for _, f := range facts {
		described[f.CMS] = true
	}
	for _, f := range Known() {
		if !described[f.CMS] {
			t.Errorf("%s is not described in facts.go", f.CMS)
			continue
		}
		delete(described, f.CMS)
		for what, text := range map[string]string{"Title": f.Title, "Proof": f.Proof, "Waits": f.Waits, "Retries": f.Retries,
			"Fails": f.Fails, "Test": f.Test, "Version": f.Version, "Never": f.Never} {
			if text == "" {
				t.Errorf("%s: %s is empty", f.CMS, what)
			}
		}
		if f.Unsigned == "" && f.CMS != "generic" {
			t.Errorf("%s: nothing is said about unsigned deliveries", f.CMS)
		}
		for _, h := range f.Headers {
			if h != http.CanonicalHeaderKey(h) {
				t.Errorf("%s: header %s is not written as %s", f.CMS, h, http.CanonicalHeaderKey(h))
			}
		}
		src := source(t, usual(f.CMS))
		d, err := src.Sign(src.Sample(), "", noon)
		if err != nil {
			t.Errorf("%s: Sign = %v", f.CMS, err)
			continue
		}
		res := src.Verify(d, noon)
		if !res.Valid() || len(res.Events) == 0 || res.Whole.Event == "" {
			t.Errorf("%s: %q, %+v, %v, want a sample that is understood", f.CMS, res.Reason, res.Whole, res.Err)
		}
		for _, ev := range res.Events {
			if ev.Entity == "" && f.CMS != "github" {
				t.Errorf("%s: %+v has no entity", f.CMS, ev)
			}
		}
		if f.Scheme != "" && f.Scheme != src.scheme.name {
			t.Errorf("%s: scheme %q in the facts, %q in the source", f.CMS, f.Scheme, src.scheme.name)
		}
		if f.DeliveryID != src.cfg.DeliveryIDHeader || f.EventFrom != src.cfg.EventFrom {
			t.Errorf("%s: facts say delivery id %q, event %q; the source %q, %q", f.CMS, f.DeliveryID, f.EventFrom, src.cfg.DeliveryIDHeader, src.cfg.EventFrom)
		}
		if tells := strings.Contains(f.Never, "a delivery id"); tells && f.DeliveryID != "" && f.CMS != "woocommerce" {
			t.Errorf("%s: tells no delivery id, and has header %s", f.CMS, f.DeliveryID)
		}
	}
	for name := range described {
		t.Errorf("facts.go describes %s, which is no sender", name)
	}
}
