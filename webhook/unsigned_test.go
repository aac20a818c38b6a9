package webhook

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/freshwire/freshwire/event"
)

// understood is what a source of a sender makes of a body.
func understood(t *testing.T, cms, name, body string) Result {
	t.Helper()
	src := source(t, usual(cms))
	d, err := src.Sign([]byte(body), name, noon)
	if err != nil {
		t.Fatalf("%s: Sign(%s) = %v", cms, body, err)
	}
	res := src.Verify(d, noon)
	if !res.Valid() {
		t.Fatalf("%s: Verify(%s) = %q, %v", cms, body, res.Reason, res.Err)
	}
	return res
}

func TestSendersWithoutSignaturesAreUnderstood(t *testing.T) {
	const post = "api::post.post"
	for _, tc := range []struct {
		cms, event, body string
		want             Item
	}{
		{"strapi", "", `{"event":"entry.create","model":"post","entry":{"id":7,"slug":"a"}}`,
			Item{Event: "entry.create", Action: event.Create, ContentType: "post", ID: "7", Slug: "a"}},
		{"strapi", "", `{"event":"entry.update","uid":"api::post.post","entry":{"documentId":"d","updatedAt":"2","publishedAt":null}}`,
			Item{Event: "entry.update", Action: event.Update, ContentType: post, ID: "d"}}, // a draft has no version that readers see
		{"strapi", "", `{"event":"entry.publish","uid":"api::post.post","entry":{"documentId":"d","updatedAt":"2","publishedAt":"3","locale":"fr"}}`,
			Item{Event: "entry.publish", Action: event.Publish, ContentType: post, ID: "d", Locale: "fr", Version: "2"}},
		{"strapi", "", `{"event":"entry.unpublish","uid":"api::post.post","entry":{"documentId":"d","updatedAt":"2"}}`,
			Item{Event: "entry.unpublish", Action: event.Unpublish, ContentType: post, ID: "d"}},
		{"strapi", "", `{"event":"entry.delete","uid":"api::post.post","entry":{"id":7}}`,
			Item{Event: "entry.delete", Action: event.Delete, ContentType: post, ID: "7"}},
		{"strapi", "", `{"event":"entry.draft-discard","uid":"api::post.post","entry":{"documentId":"d"}}`,
			Item{Event: "entry.draft-discard", Action: event.Update, ContentType: post, ID: "d"}},
		{"strapi", "", `{"event":"media.update","media":{"id":1,"name":"a.png","updatedAt":"4"}}`,
			Item{Event: "media.update", Action: event.Update, ContentType: "media", ID: "1", Version: "4"}},
		{"strapi", "", `{"event":"releases.publish","isPublished":true,"release":{"id":2,"name":"May"}}`,
			Item{Event: "releases.publish", Action: event.Publish, ID: "2"}},
		{"strapi", "", `{"event":"review-workflows.updateEntryStage","uid":"api::post.post","entity":{"id":2}}`,
			Item{Event: "review-workflows.updateEntryStage", Action: event.Update, ContentType: post, ID: "2"}},
		{"strapi", "", `{"event":"entry.frobnicate","entry":1}`, Item{Event: "entry.frobnicate", Action: event.Other}},

		{"datocms", "", `{"entity_type":"upload","event_type":"delete","entity":{"id":9,"attributes":{}}}`,
			Item{Event: "upload.delete", Action: event.Delete, ContentType: "upload", ID: "9"}},
		{"datocms", "", `{"entity_type":"item","event_type":"update","environment":"main","previous_entity":{"attributes":{"slug":"old"}},` +
			`"entity":{"id":"1","attributes":{"slug":"new","tags":["mine"]},"meta":{"status":"updated","updated_at":"5"},"relationships":{"item_type":{"data":{"id":"77"}}}}}`,
			Item{Event: "item.update", Action: event.Update, ContentType: "77", ID: "1", Slug: "new", PreviousSlug: "old", Environment: "main"}},
		{"datocms", "", `{"entity_type":"item","event_type":"publish","entity":{"id":"1","attributes":{"slug":{"en":"hello","it":"ciao"}},"meta":{"status":"published","updated_at":"5"},` +
			`"relationships":{"item_type":{"data":{"id":7}}}},"related_entities":[{"id":8,"type":"item_type","attributes":{"api_key":"no"}},{"id":7,"type":"item_type","attributes":{"api_key":"blog_post"}}]}`,
			Item{Event: "item.publish", Action: event.Publish, ContentType: "blog_post", ID: "1", Slug: "hello", Version: "5"}},
		{"datocms", "", `{"entity_type":"environment","event_type":"promote","entity":{"id":"main"}}`,
			Item{Event: "environment.promote", Action: event.Other, ContentType: "environment", ID: "main", All: true}},
		{"datocms", "", `{"entity_type":"cda_cache_tags","event_type":"invalidate","entity":{"id":"cda_cache_tags","attributes":{"tags":["a*",7,null,""]}}}`,
			Item{Event: "cda_cache_tags.invalidate", Action: event.Invalidate, ContentType: "cda_cache_tags", ID: "cda_cache_tags", Tags: []string{"a*", "7"}}},

		{"directus", "", `{"event":"posts.items.create","key":5,"collection":"posts","payload":{"slug":"a","date_updated":"6"}}`,
			Item{Event: "posts.items.create", Action: event.Create, ContentType: "posts", ID: "5", Slug: "a", Version: "6"}},
		{"directus", "", `{"event":"files.upload","key":"f","collection":"directus_files","payload":{"title":"x"}}`,
			Item{Event: "files.upload", Action: event.Create, ContentType: "directus_files", ID: "f"}},

		{"umbraco", "Umbraco.ContentPublished", `{"Id":"u","Cultures":[]}`, Item{Event: "Umbraco.ContentPublished", Action: event.Publish, ID: "u"}},
		{"umbraco", "Umbraco.ContentUnpublish", `{"Id":"u"}`, Item{Event: "Umbraco.ContentUnpublish", Action: event.Unpublish, ID: "u", All: true}},
		{"umbraco", "Umbraco.ContentUnpublished", `{"Id":"u"}`, Item{Event: "Umbraco.ContentUnpublished", Action: event.Unpublish, ID: "u", All: true}},
		{"umbraco", "Umbraco.ContentDeleted", `{"id":"u"}`, Item{Event: "Umbraco.ContentDeleted", Action: event.Delete, ID: "u", All: true}},
		{"umbraco", "Umbraco.MediaSave", `{"Id":"m","MediaType":"Image","Url":"/media/a.png","UpdateDate":"7"}`,
			Item{Event: "Umbraco.MediaSave", Action: event.Update, ContentType: "Image", ID: "m", Version: "7"}},
		{"umbraco", "Umbraco.MediaDelete", `{"Id":"m"}`, Item{Event: "Umbraco.MediaDelete", Action: event.Delete, ID: "m", All: true}},
		{"umbraco", "Umbraco.ContentPublish", `{"id":"u","contentType":"home","updateDate":"8","route":{"path":"/da/"},"cultures":{"da":{"path":"/da/"}}}`,
			Item{Event: "Umbraco.ContentPublish", Action: event.Publish, ContentType: "home", ID: "u", Slug: "/da/", Locale: "da", Version: "8"}},
		{"umbraco", "Umbraco.RollTheDice", `{"Id":"u"}`, Item{Event: "Umbraco.RollTheDice", Action: event.Other, ID: "u"}},

		{"agility", "", `{"state":"Saved","instanceGuid":"g","languageCode":"en-us","pageID":2,"pageVersionID":76}`,
			Item{Event: "page.Saved", Action: event.Update, ContentType: "page", ID: "2", Locale: "en-us", Environment: "g"}},
		{"agility", "", `{"state":"Published","languageCode":"en-us","pageID":2,"pageVersionID":76}`,
			Item{Event: "page.Published", Action: event.Publish, ContentType: "page", ID: "2", Locale: "en-us", Version: "76"}},
		{"agility", "", `{"state":"Deleted","referenceName":"posts","contentID":39,"contentVersionID":301}`,
			Item{Event: "content.Deleted", Action: event.Delete, ContentType: "posts", ID: "39"}},
		{"agility", "", `{"state":"Unpublished","referenceName":"posts","contentID":39}`,
			Item{Event: "content.Unpublished", Action: event.Unpublish, ContentType: "posts", ID: "39"}},
		{"agility", "", `{"state":"Approved","referenceName":"posts","contentID":39}`,
			Item{Event: "content.Approved", Action: event.Other, ContentType: "posts", ID: "39"}},

		{"buttercms", "", `{"data":{"id":"a","buttercms_id":1,"page_type":"*","updated":"9"},"webhook":{"event":"page.draft"}}`,
			Item{Event: "page.draft", Action: event.Update, ID: "1", Slug: "a"}},
		{"buttercms", "", `{"data":{"id":"a","buttercms_id":1,"locale":null,"updated":"9"},"webhook":{"event":"post.published"}}`,
			Item{Event: "post.published", Action: event.Publish, ID: "1", Slug: "a", Version: "9"}},
		{"buttercms", "", `{"data":{"id":"a","buttercms_id":1},"webhook":{"event":"page.unpublished"}}`,
			Item{Event: "page.unpublished", Action: event.Unpublish, ID: "1", Slug: "a"}},
		{"buttercms", "", `{"data":{"buttercms_id":1},"webhook":{"event":"collectionitem.delete"}}`,
			Item{Event: "collectionitem.delete", Action: event.Delete, ID: "1"}},

		{"craft", "", `{"name":"afterSave","senderClass":"craft\\elements\\Entry","sender":{"id":77,"slug":"a","dateUpdated":"1"},"event":{"isNew":true}}`,
			Item{Event: `craft\elements\Entry.afterSave`, Action: event.Create, ContentType: `craft\elements\Entry`, ID: "77", Slug: "a", Version: "1"}},
		{"craft", "", `{"name":"afterSave","senderClass":"craft\\elements\\Entry","sender":{"id":77,"draftId":3,"dateUpdated":"1"},"event":{"isNew":false}}`,
			Item{Event: `craft\elements\Entry.afterSave`, Action: event.Update, ContentType: `craft\elements\Entry`, ID: "77"}},
		{"craft", "", `{"name":"afterDelete","senderClass":"craft\\elements\\Asset","sender":{"id":78}}`,
			Item{Event: `craft\elements\Asset.afterDelete`, Action: event.Delete, ContentType: `craft\elements\Asset`, ID: "78"}},
		{"craft", "", `{"name":"afterSaveElement","senderClass":"craft\\services\\Elements","sender":{},"event":{"element":{"id":79,"slug":"b"},"isNew":false}}`,
			Item{Event: `craft\services\Elements.afterSaveElement`, Action: event.Update, ContentType: `craft\services\Elements`, ID: "79", Slug: "b"}},

		{"prismic", "", `{"type":"api-update","documents":[],"masks":{"update":[{"id":"post"}]},"domain":"r"}`,
			Item{Event: "api-update", Action: event.Update, Environment: "r", All: true}},
		{"prismic", "", `{"type":"something-new","domain":"r"}`, Item{Event: "something-new", Action: event.Other, Environment: "r"}},
	} {
		res := understood(t, tc.cms, tc.event, tc.body)
		if !reflect.DeepEqual(res.Whole, tc.want) || res.Batch != nil {
			t.Errorf("%s: %s\n got %+v, %d items\nwant %+v", tc.cms, tc.body, res.Whole, len(res.Batch), tc.want)
		}
		if len(res.Events) != 1 || res.Events[0].Version != tc.want.Version || (res.Events[0].Purge != nil) != tc.want.All {
			t.Errorf("%s: %s: events %+v", tc.cms, tc.body, res.Events)
		}
	}
}

func TestOneDeliveryOfManyEntitiesIsAnEventEach(t *testing.T) {
	for _, tc := range []struct {
		cms, event, body string
		ids              []string // with the locale after a blank
	}{
		{"directus", "", `{"event":"posts.items.delete","payload":[3,"x"],"keys":[3,"x"],"collection":"posts"}`, []string{"3 ", "x "}},
		{"directus", "", `{"event":"posts.items.delete","payload":["a","b"],"collection":"posts"}`, []string{"a ", "b "}},
		{"directus", "", `{"event":"posts.items.update","keys":["only"],"collection":"posts"}`, []string{"only "}},
		{"prismic", "", `{"type":"api-update","documents":["A","B","A"],"masks":{"update":[{"id":"x"}]}}`, []string{"A ", "B "}},
		{"prismic", "", `{"type":"api-update","documents":[],"releases":{"addition":[{"id":"r","documents":["C"]}],"deletion":[{"id":"s","documents":["C","D"]}]}}`, []string{"C ", "D "}},
		{"umbraco", "Umbraco.ContentPublish", `{"Id":"u","Cultures":[{"Culture":"en-US","Date":"1"},{"Culture":"da"}]}`, []string{"u en-US", "u da"}},
		{"umbraco", "Umbraco.ContentPublish", `{"Id":"u","Cultures":{"en-US":{"Path":"/"},"da":{"Path":"/da/"}}}`, []string{"u en-US", "u da"}},
	} {
		res := understood(t, tc.cms, tc.event, tc.body)
		var got []string
		seen := map[string]bool{}
		for _, ev := range res.Events {
			got = append(got, ev.Entity+" "+ev.Locale)
			seen[ev.ID] = true
		}
		if !slices.Equal(got, tc.ids) || len(seen) != len(tc.ids) {
			t.Errorf("%s: %s: events of %q, want %q, each with an id of its own", tc.cms, tc.body, got, tc.ids)
		}
	}
}

// The memory tells what an id means that comes alone; one that stands for many
// would be taken for the first of them.
func TestDeliveryThatMeansEverythingNamesOnlyAnIDThatItIsAbout(t *testing.T) {
	cultures := strings.Repeat(`{"Culture":"en"},`, maxEvents) + `{"Culture":"da"}`
	ids := strings.Repeat(`"x",`, 10)
	for i := range maxEvents {
		ids += fmt.Sprintf(`"%d",`, i)
	}
	for _, tc := range []struct {
		cms, event, body, entity string
		all                      bool
	}{
		{"umbraco", "Umbraco.ContentUnpublish", `{"Id":"u"}`, "u", true},
		{"umbraco", "Umbraco.ContentUnpublish", `{"Id":"u","Cultures":[{"Culture":"en"}]}`, "u", true},
		{"umbraco", "Umbraco.ContentUnpublish", `{"Id":"u","ContentType":"home"}`, "u", false},
		{"umbraco", "Umbraco.ContentPublish", `{"Id":"u"}`, "u", false},
		{"umbraco", "Umbraco.ContentUnpublish", `{"Id":"u","Cultures":[` + cultures + `]}`, "", true},
		{"sanity", "delete", `{"_id":"s"}`, "s", true},
		{"sanity", "delete", `{"_id":"s","_type":"post"}`, "s", false},
		{"sanity", "update", `{"_id":"s"}`, "s", false},
		{"sanity", "delete", `{"ids":{"deleted":[` + ids + `"y"]}}`, "", true},
	} {
		res := understood(t, tc.cms, tc.event, tc.body)
		if len(res.Events) != 1 || res.Events[0].Entity != tc.entity || (res.Events[0].Purge != nil) != tc.all {
			t.Errorf("%s %s %.60s: %d events, the first %+v, want one of %q, everything: %v", tc.cms, tc.event, tc.body, len(res.Events), res.Events, tc.entity, tc.all)
		}
	}
}

func TestTestButtonsAreAnsweredAndIgnored(t *testing.T) {
	for cms, body := range map[string]string{"strapi": `{"event":"trigger-test","createdAt":"x"}`, "prismic": `{"type":"test-trigger","domain":"r"}`} {
		if res := understood(t, cms, "", body); !res.Ping || len(res.Events) != 0 {
			t.Errorf("%s: %+v, want a ping without events", cms, res)
		}
	}
}

func TestDatoNamesItsDeliveryInTheBody(t *testing.T) {
	for body, want := range map[string]string{
		`{"webhook_call_id":"103","entity_type":"item","event_type":"publish","entity":{"id":"1"}}`: "103",
		`{"webhook_call_id":10321,"entity_type":"item","event_type":"publish","entity":{"id":"1"}}`: "10321",
		`{"webhook_call_id":null,"entity_type":"item","event_type":"publish","entity":{"id":"1"}}`:  "",
	} {
		res := understood(t, "datocms", "", body)
		if res.DeliveryID != want || res.Events[0].DeliveryID != want || res.Events[0].Guessed != (want == "") {
			t.Errorf("%s: delivery %q, event %+v, want %q", body, res.DeliveryID, res.Events[0], want)
		}
	}
}

func TestAnySchemeMayGuardAnyOfThem(t *testing.T) {
	for _, cfg := range []SourceConfig{
		{CMS: "strapi", Scheme: "query-token", Secret: testSecret},
		{CMS: "datocms", Scheme: "token", Header: "X-Token", Secret: testSecret},
		{CMS: "prismic", Scheme: "basic", Username: "u", Secret: testSecret},
		{CMS: "umbraco", Secret: testSecret, Header: "Authorization", Prefix: "Bearer "},
		{CMS: "craft", Scheme: "hmac", Secret: testSecret},
		{CMS: "agility", Scheme: "none"},
	} {
		src := source(t, cfg)
		d, err := src.Sign(src.Sample(), "", noon)
		if err != nil {
			t.Fatal(err)
		}
		if res := src.Verify(d, noon); !res.Valid() {
			t.Errorf("%s with %s: %q, %v", cfg.CMS, cfg.Scheme, res.Reason, res.Err)
		}
		d.Header.Del("Authorization")
		if cfg.CMS == "umbraco" {
			if res := src.Verify(d, noon); res.Reason != MissingToken {
				t.Errorf("umbraco without its header: %q", res.Reason)
			}
		}
	}
	for _, name := range []string{"umbraco", "craft"} {
		d, err := source(t, usual(name)).Sign([]byte("{}"), "", noon)
		if err != nil || d.Header.Get("X-Freshwire-Token") == "" {
			t.Errorf("%s: token in %v, %v, want it in X-Freshwire-Token", name, d.Header, err)
		}
	}
}

func TestOddBodiesOfTokenSendersAreNoTrouble(t *testing.T) {
	for _, name := range []string{"strapi", "prismic", "datocms", "directus", "umbraco", "agility", "buttercms", "craft"} {
		for _, body := range []string{`{}`, `{"event":1,"type":[],"entry":"x","entity":7,"keys":{"a":1},"documents":{"a":1},"Cultures":"x","data":[],"sender":"s","webhook":7}`,
			`{"event":"a.","entry":{"id":{}},"releases":{"addition":[1]},"keys":[null,{},[]],"Cultures":{"":{}},"state":"","name":"x","senderClass":""}`} {
			src := source(t, usual(name))
			d, err := src.Sign([]byte(body), "", noon)
			if err != nil {
				t.Fatal(err)
			}
			if res := src.Verify(d, noon); !res.Valid() {
				t.Errorf("%s: %s: %q, %v", name, body, res.Reason, res.Err)
			}
		}
	}
}
