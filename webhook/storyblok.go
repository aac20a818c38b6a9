package webhook

import (
	"cmp"
	"strings"

	"github.com/freshwire/freshwire/event"
)

// Storyblok (storyblok.com) names the kind of a thing by the key of its id:
//
//	{"text":"…","action":"published","space_id":288868,"story_id":440044,"full_slug":"posts/hello"}
//
// It tells no version. Deleted and moved stories come with the slug of now.
var storyblokCMS = &cms{
	name:   "storyblok",
	scheme: "storyblok",
	decode: decodeStoryblok,
	sample: `{"text":"The user ada@example.com published the Story Hello (posts/hello)\nhttps://app.storyblok.com/#/me/spaces/288868/stories/0/0/440044",` +
		`"action":"published","space_id":288868,"story_id":440044,"full_slug":"posts/hello"}`,
}

// webhook-signature: <hex> of HMAC-SHA1.
var storyblokScheme = namedHMAC("storyblok", SourceConfig{Header: "webhook-signature", Hash: "sha1"}, "")

// storyblokActions maps actions; those with the kind before them are of the
// webhooks before 2022.
var storyblokActions = map[string]event.Action{
	"created":         event.Create,
	"added":           event.Create,
	"published":       event.Publish,
	"unpublished":     event.Unpublish,
	"deleted":         event.Delete,
	"removed":         event.Delete,
	"restored":        event.Unarchive,
	"moved":           event.Update,
	"replaced":        event.Update,
	"entries_updated": event.Update,
	"entry_saved":     event.Update,
	"roles_updated":   event.Update,
	"updated":         event.Update,
	"merged":          event.Publish,
	"deployed":        event.Publish,
}

// storyblokIDs are the keys of ids, first those that stand beside others.
var storyblokIDs = []string{"discussion_id", "story_id", "asset_id", "datasource_slug", "datasource_id", "user_id", "release_id", "branch_id", "task_id"}

func decodeStoryblok(s *Source, d Delivery, body value) (message, error) {
	key := storyblokID(body)
	kind := strings.TrimSuffix(strings.TrimSuffix(key, "_id"), "_slug")
	action := body.text("action")
	it := Item{
		Event:       joinDot(kind, action),
		Action:      cmp.Or(storyblokActions[strings.TrimPrefix(action, kind+"_")], event.Other),
		ContentType: kind,
		ID:          body.text(key),
		Slug:        cmp.Or(body.text("full_slug"), body.text("datasource_slug")),
		Environment: body.text("space_id"),
		All:         kind == "release" || kind == "branch", // merged or deployed: many stories at once, and none is named
	}
	return message{Item: it}, nil
}

// storyblokID returns the key of the id of what this is about.
func storyblokID(body value) string {
	for _, key := range storyblokIDs {
		if body.text(key) != "" {
			return key
		}
	}
	for _, key := range body.keys() {
		if strings.HasSuffix(key, "_id") && key != "space_id" && !strings.Contains(key, ".") {
			return key
		}
	}
	return ""
}
