package webhook

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/freshwire/freshwire/event"
)

// same compares what is told of an entity, and not the bytes that travel with it.
func same(a, b Item) bool {
	a.payload, b.payload = nil, nil
	return reflect.DeepEqual(a, b)
}

// told is a body, with headers that are not signed, and what it must be taken for.
type told struct {
	body    string
	headers string // name: value, one a line
	want    Item
	batch   []Item // nil: not a batch
}

// checkTold signs each body as the sender does and looks at what is understood.
func checkTold(t *testing.T, cfg SourceConfig, name func(told) string, cases []told) {
	t.Helper()
	for _, tc := range cases {
		src := source(t, cfg)
		d := sign(t, src, tc.body, name(tc))
		for line := range strings.Lines(tc.headers) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			d.Header.Set(name, value)
		}
		res := src.Verify(d, noon)
		if !res.Valid() || !same(res.Whole, tc.want) {
			t.Errorf("%s\n got %v %+v\nwant %+v", tc.body, res.Err, res.Whole, tc.want)
			continue
		}
		if len(res.Batch) != len(tc.batch) || (res.Batch == nil) != (tc.batch == nil) {
			t.Errorf("%s: batch %+v, want %+v", tc.body, res.Batch, tc.batch)
			continue
		}
		for i, want := range tc.batch {
			if !same(res.Batch[i], want) {
				t.Errorf("%s: [%d]\n got %+v\nwant %+v", tc.body, i, res.Batch[i], want)
			}
		}
		for _, ev := range res.Events {
			if err := ev.Validate(); err != nil {
				t.Errorf("%s: %v", tc.body, err)
			}
		}
	}
}

// topic is the event name in want.
func topic(tc told) string { return tc.want.Event }

func none(told) string { return "" }

func TestSanityTellsWhatChanged(t *testing.T) {
	where := "sanity-dataset: production\nsanity-document-id: "
	at := func(id string) string { return where + id }
	checkTold(t, SourceConfig{CMS: "sanity", Secret: testSecret}, topic, []told{
		{`{"_id":"a","_type":"post","_rev":"r1","slug":{"current":"hi"},"language":"de"}`, at("a"),
			Item{Event: "update", Action: "update", ContentType: "post", ID: "a", Slug: "hi", Locale: "de", Environment: "production", Version: "r1"}, nil},
		{`{"type":"post","slug":"hi","_updatedAt":"2026-11-20T11:59:58Z","_rev":"r1"}`, at("a"),
			Item{Event: "create", Action: "create", ContentType: "post", ID: "a", Slug: "hi", Environment: "production", Version: "2026-11-20T11:59:58Z"}, nil},
		{`{"_id":"drafts.a","_type":"post","_rev":"r1"}`, at("drafts.a"), // a draft is an entity of its own
			Item{Event: "create", Action: "create", ContentType: "post", ID: "drafts.a", Environment: "production", Version: "r1"}, nil},
		{`{"_id":"versions.r.a","_type":"post"}`, "sanity-dataset: production",
			Item{Event: "update", Action: "update", ContentType: "post", ID: "versions.r.a", Environment: "production"}, nil},
		{`{"_id":"a","_type":"post","_rev":"r1"}`, at("a"), Item{Event: "delete", Action: "delete", ContentType: "post", ID: "a", Environment: "production"}, nil},
		{``, at("a"), Item{Event: "update", Action: "update", ID: "a", Environment: "production"}, nil},
		{`{"dataset":"staging","ids":{"created":["a"],"updated":["b","b"],"deleted":["c"],"all":["a","b","c","d",7,null]}}`, "sanity-dataset: \nsanity-document-id: \n",
			Item{Event: "create", Action: "create", ID: "a", Environment: "staging"}, []Item{
				{Event: "create", Action: "create", ID: "a", Environment: "staging"}, {Event: "update", Action: "update", ID: "b", Environment: "staging"},
				{Event: "delete", Action: "delete", ID: "c", Environment: "staging"}, {Event: "create", Action: "create", ID: "d", Environment: "staging"},
				{Event: "create", Action: "create", ID: "7", Environment: "staging"}}},
		{`{"_id":"a","ids":["x"]}`, at("a"), Item{Event: "update", Action: "update", ID: "a", Environment: "production"}, nil}, // a field of that name
	})
	projected := SourceConfig{CMS: "sanity", Secret: testSecret, Paths: Paths{Type: "kind", ID: "ref", Slug: "path", Locale: "lang", Version: "v"}}
	checkTold(t, projected, topic, []told{{`{"_id":"a","_type":"x","kind":"post","ref":"b","path":"/hi","lang":"fr","v":2}`, at("a"),
		Item{Event: "update", Action: "update", ContentType: "post", ID: "b", Slug: "/hi", Locale: "fr", Version: "2", Environment: "production"}, nil}})
}

func TestWebflowTellsWhatChanged(t *testing.T) {
	checkTold(t, SourceConfig{CMS: "webflow", Secret: testSecret}, none, []told{
		{`{"triggerType":"collection_item_created","payload":{"_id":"1","siteId":"s","collectionId":"c","fieldData":{"slug":"a"},"lastUpdated":"x","lastPublished":null}}`, "",
			Item{Event: "collection_item_created", Action: "create", ContentType: "c", ID: "1", Slug: "a", Environment: "s"}, nil},
		{`{"triggerType":"collection_item_deleted","payload":{"id":"1","siteId":"s","collectionId":"c"}}`, "",
			Item{Event: "collection_item_deleted", Action: "delete", ContentType: "c", ID: "1", Environment: "s"}, nil},
		{`{"triggerType":"collection_item_published","payload":{"id":"1","siteId":"s","collectionId":"c","lastPublished":"2026-11-20T11:59:58.200Z"}}`, "",
			Item{Event: "collection_item_published", Action: "publish", ContentType: "c", ID: "1", Environment: "s", Version: "2026-11-20T11:59:58.200Z"}, nil},
		{`{"triggerType":"collection_item_unpublished","payload":{"id":"1","siteId":"s","collectionId":"c"}}`, "",
			Item{Event: "collection_item_unpublished", Action: "unpublish", ContentType: "c", ID: "1", Environment: "s"}, nil},
		{`{"triggerType":"collection_item_published","payload":{"siteId":"s","items":[{"id":"1","collectionId":"c","fieldData":{"slug":"a"}},{"id":"2","collectionId":"d","cmsLocaleId":"l"}]}}`, "",
			Item{Event: "collection_item_published", Action: "publish", ContentType: "c", ID: "1", Slug: "a", Environment: "s"}, []Item{
				{Event: "collection_item_published", Action: "publish", ContentType: "c", ID: "1", Slug: "a", Environment: "s"},
				{Event: "collection_item_published", Action: "publish", ContentType: "d", ID: "2", Locale: "l", Environment: "s"}}},
		{`{"triggerType":"page_metadata_updated","payload":{"siteId":"s","pageId":"p","pageTitle":"About"}}`, "",
			Item{Event: "page_metadata_updated", Action: "update", ContentType: "page", ID: "p", Environment: "s"}, nil},
		{`{"triggerType":"site_publish","payload":{"domain":"a.example","site":"s"}}`, "",
			Item{Event: "site_publish", Action: "publish", ContentType: "site", ID: "s", Environment: "s", All: true}, nil},
		{`{"triggerType":"form_submission","payload":{"id":"f","siteId":"s","data":{"email":"ada@example.com"}}}`, "",
			Item{Event: "form_submission", Action: "other", ContentType: "form", ID: "f", Environment: "s"}, nil},
		{`{"triggerType":"ecomm_order_changed","payload":{"id":"o"}}`, "", Item{Event: "ecomm_order_changed", Action: "update", ContentType: "ecomm_order", ID: "o"}, nil},
	})
}

func TestKontentTellsWhatChanged(t *testing.T) {
	note := func(kind, verb, slot, system string) string {
		return `{"data":{"system":` + system + `},"message":{"environment_id":"e","object_type":"` + kind + `","action":"` + verb + `","delivery_slot":"` + slot + `"}}`
	}
	const article = `{"id":"1","type":"article","language":"en","last_modified":"2026-11-20T11:59:50.05Z"}`
	for verb, action := range map[string]string{"created": "create", "deleted": "delete", "workflow_step_changed": "other", "metadata_changed": "update",
		"published": "publish", "unpublished": "unpublish", "changed": "update", "term_created": "update", "term_deleted": "update", "terms_moved": "update"} {
		src := source(t, SourceConfig{CMS: "kontent", Secret: testSecret})
		res := src.Verify(sign(t, src, `{"notifications":[`+note("taxonomy", verb, "published", `{"id":"1"}`)+`]}`, ""), noon)
		if string(res.Whole.Action) != action || len(res.Events) != 1 || res.Events[0].Type != "taxonomy" {
			t.Errorf("taxonomy.%s: %+v, want %s", verb, res.Events, action)
		}
	}
	published := Item{Event: "content_item.published", Action: "publish", ContentType: "article", ID: "1", Locale: "en", Environment: "e", Version: "2026-11-20T11:59:50.05Z"}
	preview, gone := published, published
	preview.Version = ""
	gone.Event, gone.Action, gone.Version = "content_item.unpublished", "unpublish", ""
	legacy := Item{Event: "content_item_variant.publish", Action: "publish", ContentType: "article", ID: "1", Locale: "en", Environment: "p"}
	second := legacy
	second.ID, second.ContentType, second.Locale = "2", "", "l-2"
	term := Item{Event: "taxonomy.upsert", Action: "update", ID: "t", Environment: "p"}
	checkTold(t, SourceConfig{CMS: "kontent", Secret: testSecret}, none, []told{
		{`{"notifications":[` + note("content_item", "published", "published", article) + `,` + note("content_item", "published", "preview", article) + `,` +
			note("content_item", "unpublished", "published", article) + `]}`, "", published, []Item{published, preview, gone}},
		{`{"notifications":[]}`, "", Item{}, []Item{}},
		{`{"data":{"items":[{"id":"1","type":"article","language":"en"},{"item":{"id":"2"},"language":{"id":"l-2"}}],"taxonomies":[]},` +
			`"message":{"id":"m-1","project_id":"p","type":"content_item_variant","operation":"publish"}}`, "", legacy, []Item{legacy, second}},
		{`{"data":{"items":[],"taxonomies":[{"id":"t","codename":"x"}]},"message":{"id":"m-2","project_id":"p","type":"taxonomy","operation":"upsert"}}`, "", term, []Item{term}},
	})

	src := source(t, SourceConfig{CMS: "kontent", Secret: testSecret})
	for _, body := range []string{`{}`, `{"notifications":{}}`, `{"notifications":[1]}`, `{"notifications":[{"data":{}}]}`, `{"message":"x"}`} {
		if res := src.Verify(sign(t, src, body, ""), noon); res.Reason != MalformedBody {
			t.Errorf("%s: %q, want malformed_body", body, res.Reason)
		}
	}
	res := src.Verify(sign(t, src, `{"data":{},"message":{"id":"m-1","type":"taxonomy","operation":"upsert"}}`, ""), noon)
	if res.DeliveryID != "m-1" {
		t.Errorf("delivery id of a legacy notification = %q, want m-1", res.DeliveryID)
	}
}

// Rules are given the notification that an event is about, not all of them.
func TestKontentEventCarriesItsOwnNotification(t *testing.T) {
	src := source(t, SourceConfig{CMS: "kontent", Secret: testSecret})
	first, second := captures(t)["kontent.batch-of-three.valid"], ""
	res := src.Verify(sign(t, src, first.Body, ""), noon)
	for _, ev := range res.Events {
		second += string(ev.Payload)
		if !strings.Contains(string(ev.Payload), `"id":"`+ev.Entity+`"`) || strings.Count(string(ev.Payload), `"message"`) != 1 {
			t.Errorf("payload of %s: %s, want its own notification", ev.Entity, ev.Payload)
		}
	}
	if len(res.Events) != 3 || len(second) >= len(first.Body) {
		t.Errorf("%d events with %d bytes, want 3 with less than %d", len(res.Events), len(second), len(first.Body))
	}
}

func TestStoryblokTellsWhatChanged(t *testing.T) {
	body := func(action, rest string) string {
		return fmt.Sprintf(`{"text":"x","action":%q,"space_id":1,%s}`, action, rest)
	}
	item := func(name, action, kind, id, slug string, all bool) Item {
		return Item{Event: name, Action: event.Action(action), ContentType: kind, ID: id, Slug: slug, Environment: "1", All: all}
	}
	checkTold(t, SourceConfig{CMS: "storyblok", Secret: testSecret}, none, []told{
		{body("unpublished", `"story_id":2,"full_slug":"a/b"`), "", item("story.unpublished", "unpublish", "story", "2", "a/b", false), nil},
		{body("deleted", `"story_id":2`), "", item("story.deleted", "delete", "story", "2", "", false), nil},
		{body("moved", `"story_id":99000111222333,"full_slug":"de/ueber-uns"`), "", item("story.moved", "update", "story", "99000111222333", "de/ueber-uns", false), nil},
		{body("created", `"asset_id":5`), "", item("asset.created", "create", "asset", "5", "", false), nil},
		{body("restored", `"asset_id":5`), "", item("asset.restored", "unarchive", "asset", "5", "", false), nil},
		{body("removed", `"user_id":7`), "", item("user.removed", "delete", "user", "7", "", false), nil},
		{body("stage.changed", `"workflow_name":"w","story_id":2`), "", item("story.stage.changed", "other", "story", "2", "", false), nil},
		{body("merged", `"release_id":3`), "", item("release.merged", "publish", "release", "3", "", true), nil},
		{body("deployed", `"branch_id":4`), "", item("branch.deployed", "publish", "branch", "4", "", true), nil},
		{body("release_merged", `"release_id":3`), "", item("release.release_merged", "publish", "release", "3", "", true), nil},
		{body("created", `"discussion_id":8,"story_id":2`), "", item("discussion.created", "create", "discussion", "8", "", false), nil},
		{body("started", `"experiment_id":9`), "", item("experiment.started", "other", "experiment", "9", "", false), nil},
		{body("something", `"a.b_id":9`), "", item("something", "other", "", "", "", false), nil},
	})
}

func TestWooCommerceTellsWhatChanged(t *testing.T) {
	const shop = "https://shop.example.com/"
	checkTold(t, SourceConfig{CMS: "woocommerce", Secret: testSecret}, topic, []told{
		{`{"id":794}`, "", Item{Event: "product.deleted", Action: "delete", ContentType: "product", ID: "794", Environment: shop}, nil},
		{`{"id":794,"slug":"a","date_modified_gmt":"2026-11-20T11:59:50"}`, "",
			Item{Event: "product.restored", Action: "unarchive", ContentType: "product", ID: "794", Slug: "a", Environment: shop, Version: "2026-11-20T11:59:50"}, nil},
		{`{"id":9007199254740993,"code":"x"}`, "", Item{Event: "coupon.created", Action: "create", ContentType: "coupon", ID: "9007199254740993", Environment: shop}, nil},
		{`{"action":"woocommerce_add_to_cart","arg":1}`, "", Item{Event: "action.woocommerce_add_to_cart", Action: "other", ContentType: "action", Environment: shop}, nil},
	})
}

func TestWooCommercePingIsAnswered200AndActsOnNothing(t *testing.T) {
	o := open(t, source(t, SourceConfig{CMS: "woocommerce", Secret: testSecret}))
	for body, want := range map[string]int{"webhook_id=12": 200, "webhook_id=": 401, "webhook_id=12&x=1": 401, "webhook_id=12\n": 401, `{"id":1}`: 401, "": 401} {
		resp, _ := o.post(t, Delivery{Method: "POST", Target: "/webhooks/test", Body: []byte(body)})
		if resp.StatusCode != want || len(o.queue.events) != 0 {
			t.Errorf("unsigned %q: %d and %d events, want %d and none", body, resp.StatusCode, len(o.queue.events), want)
		}
	}
	forged := Delivery{Method: "POST", Target: "/webhooks/test", Header: http.Header{"X-Wc-Webhook-Signature": {"AAAA"}}, Body: []byte("webhook_id=12")}
	if resp, _ := o.post(t, forged); resp.StatusCode != 401 {
		t.Errorf("ping with a bad signature: %d, want 401", resp.StatusCode)
	}
}

func TestShopifyTellsWhatChanged(t *testing.T) {
	const shop = "fresh.myshopify.com"
	checkTold(t, SourceConfig{CMS: "shopify", Secret: testSecret}, topic, []told{
		{`{"id":8,"handle":"läckerli","updated_at":"2026-11-20T06:59:58-05:00"}`, "X-Shopify-Event-Id: e-2",
			Item{Event: "products/create", Action: "create", ContentType: "products", ID: "8", Slug: "läckerli", Environment: shop, EventID: "e-2", Version: "2026-11-20T06:59:58-05:00"}, nil},
		{`{"id":8,"updated_at":"x"}`, "", Item{Event: "products/delete", Action: "delete", ContentType: "products", ID: "8", Environment: shop}, nil},
		{`{"id":8}`, "", Item{Event: "orders/paid", Action: "other", ContentType: "orders", ID: "8", Environment: shop}, nil},
		{`{"id":8}`, "", Item{Event: "themes/publish", Action: "publish", ContentType: "themes", ID: "8", Environment: shop}, nil},
		{`{"product_listing":{"product_id":8}}`, "", Item{Event: "product_listings/remove", Action: "unpublish", ContentType: "product_listings", Environment: shop}, nil},
	})
}

func TestShopifyHeadersWithoutXMeanTheSame(t *testing.T) {
	src := source(t, SourceConfig{CMS: "shopify", Secret: testSecret})
	d := sign(t, src, src.cms.sample, "products/update")
	d.Header.Set("X-Shopify-Event-Id", "e-1")
	before := src.Verify(d, noon)
	for name, values := range d.Header.Clone() {
		if short, ok := strings.CutPrefix(name, "X-"); ok {
			d.Header.Del(name)
			d.Header[short] = values
		}
	}
	after := src.Verify(d, noon)
	if !after.Valid() || !same(before.Whole, after.Whole) || before.DeliveryID != after.DeliveryID || after.DeliveryID == "" {
		t.Errorf("without X-: %v %+v, want %+v", after.Err, after.Whole, before.Whole)
	}
}

func TestShopifyEventOfSeveralSubscriptionsIsOneEvent(t *testing.T) {
	src := source(t, SourceConfig{CMS: "shopify", Secret: testSecret})
	id := func(topic, eventID, webhookID, body string) string {
		d := sign(t, src, body, topic)
		d.Header.Set("X-Shopify-Event-Id", eventID)
		d.Header.Set("X-Shopify-Webhook-Id", webhookID)
		res := src.Verify(d, noon)
		if res.DeliveryID != webhookID || len(res.Events) != 1 {
			t.Fatalf("Verify = %+v, want delivery %s", res, webhookID)
		}
		return res.Events[0].ID
	}
	first := id("products/update", "e-1", "w-1", `{"id":1}`)
	if id("products/update", "e-1", "w-2", `{"id":1}`) != first {
		t.Error("another subscription: another event, want the same")
	}
	for _, other := range []string{id("products/delete", "e-1", "w-1", `{"id":1}`), id("products/update", "e-2", "w-1", `{"id":1}`), id("products/update", "e-1", "w-1", `{"id":2}`)} {
		if other == first {
			t.Error("another topic, event or product: the same event, want another")
		}
	}
}

func TestDrupalTellsWhatChanged(t *testing.T) {
	cfg := SourceConfig{CMS: "drupal", Secret: testSecret}
	checkTold(t, cfg, topic, []told{
		{`{"entity":{}}`, "", Item{Event: "entity:taxonomy_term:delete", Action: "delete", ContentType: "taxonomy_term"}, nil},
		{`{"entity":{}}`, "", Item{Event: "entity:node:insert", Action: "create", ContentType: "node"}, nil},
		{`{"entity":{}}`, "", Item{Event: "system:cron", Action: "other", ContentType: "system"}, nil},
	})
	checkTold(t, cfg, none, []told{{`{"event":"entity:node:create"}`, "", Item{Event: "entity:node:create", Action: "create", ContentType: "node"}, nil}})
}

func TestSendersWithOneHeaderNameWhatIsWrong(t *testing.T) {
	for _, tc := range []struct{ cms, header, prefix string }{
		{"webflow", "X-Webflow-Signature", ""}, {"kontent", "X-Kontent-Ai-Signature", ""}, {"storyblok", "Webhook-Signature", ""},
		{"woocommerce", "X-Wc-Webhook-Signature", ""}, {"shopify", "X-Shopify-Hmac-Sha256", ""},
		{"github", "X-Hub-Signature-256", "sha256="}, {"drupal", "X-Hub-Signature", "sha1="},
	} {
		src := source(t, SourceConfig{CMS: tc.cms, Secret: testSecret})
		good := sign(t, src, src.cms.sample, "").Header.Get(tc.header)
		short, _ := decodeMAC(src.cfg.Encoding, strings.TrimPrefix(good, tc.prefix))
		other := hex.EncodeToString(short) // hex where base64 is due
		for value, want := range map[string]Reason{
			good: "", "\t " + good + "  ": "", "": MissingSignature, "  ": MissingSignature, tc.prefix + "***": BadSignature, tc.prefix + "é": BadSignature,
			good[:len(good)-4]: BadSignature, good + "AAAA": BadSignature, tc.prefix + strings.Repeat("A", 100000): BadSignature,
		} {
			d := sign(t, src, src.cms.sample, "")
			if tc.cms == "webflow" {
				d.Header.Set("X-Webflow-Timestamp", fmt.Sprint(noon.UnixMilli()))
			}
			d.Header.Set(tc.header, value)
			if res := src.Verify(d, noon); res.Reason != want {
				t.Errorf("%s: %s: %.60q: %q, want %q", tc.cms, tc.header, value, res.Reason, want)
			}
		}
		if src.cfg.Encoding == "base64" {
			d := sign(t, src, src.cms.sample, "")
			d.Header.Set(tc.header, other)
			if res := src.Verify(d, noon); res.Reason != BadSignature {
				t.Errorf("%s: hex for base64: %q, want bad_signature", tc.cms, res.Reason)
			}
		} else {
			d := sign(t, src, src.cms.sample, "")
			d.Header.Set(tc.header, tc.prefix+strings.ToUpper(strings.TrimPrefix(good, tc.prefix)))
			if res := src.Verify(d, noon); !res.Valid() {
				t.Errorf("%s: upper-case hex: %q, want valid", tc.cms, res.Reason)
			}
		}
	}
}

func TestKeyOfOneCMSIsRefusedElsewhere(t *testing.T) {
	for _, cfg := range []SourceConfig{
		{CMS: "ghost", ContentDir: "content"}, {CMS: "ghost", Branch: "main"}, {CMS: "github", AutoSave: true}, {CMS: "contentstack", PublicKeyPEM: "x"},
		{CMS: "ghost", SignedPath: "/a"}, {CMS: "kontent", Header: "X-A"}, {CMS: "shopify", Hash: "sha1"}, {CMS: "github", Tolerance: time.Minute},
	} {
		cfg.Secret = testSecret
		if _, err := NewSource("test", cfg); err == nil || !strings.Contains(err.Error(), "means nothing") {
			t.Errorf("NewSource(%+v) = %v, want a key that means nothing", cfg, err)
		}
	}
}

func TestSenderThatMayUseOtherMethodsIsAnswered(t *testing.T) {
	for cms, methods := range map[string][]string{"sanity": {"POST", "PUT", "PATCH", "DELETE"}, "hygraph": {"POST", "PUT", "DELETE"}} {
		src := source(t, SourceConfig{CMS: cms, Secret: testSecret})
		o := open(t, src)
		for _, method := range methods {
			d := sign(t, src, src.cms.sample+strings.Repeat(" ", len(o.queue.events)), "")
			d.Method = method
			if resp, body := o.post(t, d); resp.StatusCode != 200 || body["status"] == "ignored" {
				t.Errorf("%s %s: %d %v, want 200", cms, method, resp.StatusCode, body)
			}
		}
		d := sign(t, src, "", "") // its payload is switched off
		d.Method = "GET"
		if resp, body := o.post(t, d); resp.StatusCode != 200 || body["status"] != "queued" {
			t.Errorf("%s GET without body: %d %v, want 200 queued", cms, resp.StatusCode, body)
		}
	}
}

// A sender that knows the secret may still be broken, or hostile.
func TestHugeBatchIsBounded(t *testing.T) {
	note := `{"data":{"system":{"id":"1"}},"message":{"object_type":"a","action":"published"}}`
	src := source(t, SourceConfig{CMS: "kontent", Secret: testSecret, MaxBody: 32 << 20})
	for n, events := range map[int]int{maxEvents: maxEvents, maxEvents + 1: 1, 100000: 1} {
		body := `{"notifications":[` + strings.Repeat(note+",", n-1) + note + `]}`
		res := src.Verify(sign(t, src, body, ""), noon)
		if !res.Valid() || len(res.Events) != events {
			t.Fatalf("%d notifications: %v, %d events, want %d", n, res.Err, len(res.Events), events)
		}
		if all := res.Events[0].Purge != nil && res.Events[0].Purge.All; all != (n > maxEvents) {
			t.Errorf("%d notifications: purge of everything is %v", n, all)
		}
	}
	// A legacy notification is one body for all its items.
	item := `{"id":"1","pad":"` + strings.Repeat("x", 40000) + `"}`
	body := `{"message":{"type":"a","operation":"publish"},"data":{"items":[` + strings.Repeat(item+",", 99) + item + `]}}`
	res := src.Verify(sign(t, src, body, ""), noon)
	if !res.Valid() || len(res.Events) != 1 || !res.Events[0].Purge.All || !bytes.Equal(res.Events[0].Payload, []byte(body)) {
		t.Errorf("100 payloads of 4 MB: %v, %d events, want one for everything", res.Err, len(res.Events))
	}
}
