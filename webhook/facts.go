package webhook

import "slices"

// Facts is what people should know of a sender: docs/cms.md is written from
// it, and Explain speaks by it.
type Facts struct {
	CMS   string // its name in freshwire.yaml
	Title string

	// From the rows of the code.
	Scheme     string   // used when a source names none
	Methods    []string // it sends with
	DeliveryID string   // header that names a delivery; empty: none, or in the body
	EventFrom  string   // where the event's name stands, as event_from says it; empty: in the body
	SignsTime  bool     // old deliveries are refused
	Sample     string   // a body

	Proof    string   // what a delivery carries, for people
	Unsigned string   // why one may come without, and what to do
	Headers  []string // that only this sender writes
	Waits    string   // for our answer
	Retries  string
	Fails    string // what becomes of a webhook that keeps failing
	Test     string // what its test button sends
	Batches  string // what one delivery may speak of; empty: one entity
	Version  string // what it announces, and where the origin shows the same
	Never    string // what it never tells
}

// Known are the senders of this version, in the order of the documentation.
func Known() []Facts {
	var all []Facts
	for _, c := range cmses {
		all = append(all, factsOf(c.name))
	}
	return all
}

// factsOf joins what the tables know of a sender.
func factsOf(name string) Facts {
	i := slices.IndexFunc(facts, func(f Facts) bool { return f.CMS == name })
	c, err := findCMS(name)
	if i < 0 || err != nil {
		return Facts{CMS: name, Title: name}
	}
	f := facts[i]
	f.Scheme, f.Methods, f.Sample = c.scheme, (&Source{cms: c}).Methods(), c.sample
	cfg := SourceConfig{CMS: name, Scheme: c.scheme}
	if c.defaults != nil {
		c.defaults(&cfg)
	}
	f.EventFrom, f.DeliveryID = cfg.EventFrom, cfg.DeliveryIDHeader
	if sc, err := findScheme(c.scheme); err == nil {
		s := &Source{name: name, cms: c, scheme: sc, cfg: cfg}
		if sc.prepare != nil {
			sc.prepare(s, func(string, string, ...any) {}) // a row's own defaults are no mistakes
		}
		f.DeliveryID = s.cfg.DeliveryIDHeader
		f.SignsTime = slices.Contains(sc.uses, "tolerance")
	}
	return f
}

// facts are those that the code does not hold, from the senders' own pages.
var facts = []Facts{
	{
		CMS: "contentful", Title: "Contentful",
		Proof:    "`x-contentful-signature`: HMAC-SHA256 of method, path, listed headers and body",
		Unsigned: "Contentful signs only once request verification is enabled: Settings → Webhooks → Settings → Enable request verification. The secret is one for the whole space.",
		Headers:  []string{"X-Contentful-Topic", "X-Contentful-Signature", "X-Contentful-Webhook-Name"},
		Waits:    "not documented", Retries: "2 more, 30 s apart, on 429 and 5xx (another policy: up to 99 over about 24 h)", Fails: "the call is marked as failed",
		Test:    "the admin's test call, which looks like a real one",
		Version: "`sys.revision` on publish; in the Delivery API `sys.revision`",
		Never:   "the slug of what is unpublished or deleted; the old slug of what is renamed",
	},
	{
		CMS: "sanity", Title: "Sanity",
		Proof:    "`sanity-webhook-signature: t=…,v1=…`: HMAC-SHA256 of time and body",
		Unsigned: "Sanity signs only webhooks that have a secret: sanity.io/manage → API → Webhooks → Edit → Secret.",
		Headers:  []string{"Sanity-Webhook-Signature", "Sanity-Operation", "Sanity-Dataset"},
		Waits:    "30 s", Retries: "2 more, 30 s apart, on 429 and 5xx; after another 4xx never", Fails: "gives up", Test: "none",
		Version: "`_updatedAt` (else `_rev`) if the projection has it; in query results the same",
		Never:   "anything that its projection leaves out; whether a document was published or edited (create, update and delete are all it knows)",
	},
	{
		CMS: "hygraph", Title: "Hygraph",
		Proof:    "`gcms-signature: sign=…, env=…, t=…`: HMAC-SHA256 of body, environment and time",
		Unsigned: "Hygraph signs only webhooks that have a secret key: Project settings → Webhooks → Edit → Secret key.",
		Headers:  []string{"Gcms-Signature"},
		Waits:    "3 s", Retries: "4 more", Fails: "stays in its log", Test: "none",
		Version: "`publishedAt` (else `updatedAt`) on publish; in the API the same",
		Never:   "a delivery id; languages; the old slug; anything at all when the payload is switched off (then everything is purged)",
	},
	{
		CMS: "ghost", Title: "Ghost",
		Proof:    "`X-Ghost-Signature: sha256=…, t=…`: HMAC-SHA256 of body and time; before 5.87.1 of the body alone (`legacy_body_only: true`)",
		Unsigned: "Ghost signs only webhooks that have a secret: Settings → Integrations → your integration → Edit webhook → Secret, for each of its webhooks.",
		Headers:  []string{"X-Ghost-Signature"},
		Waits:    "2 s", Retries: "none: an event lost on the way stays lost", Fails: "a 410 deletes the webhook, so freshwire never answers 410", Test: "none",
		Version: "`updated_at`; in the Content API the same",
		Never:   "what happened (the URL says it, or it is derived from the body); a delivery id; languages. One save fires several events",
	},
	{
		CMS: "webflow", Title: "Webflow",
		Proof:    "`x-webflow-signature`: HMAC-SHA256 of time and body",
		Unsigned: "Webflow signs only webhooks that are made through its API; those made in the dashboard come without. Make it through the API, or use scheme: query-token and put ?token=… into its URL.",
		Headers:  []string{"X-Webflow-Signature", "X-Webflow-Timestamp"},
		Waits:    "not documented", Retries: "up to 3 attempts, until exactly 200", Fails: "not documented", Test: "none",
		Batches: "`collection_item_published` may name several items", Version: "`lastPublished` on publish; in the live items' API the same",
		Never: "a delivery id; the name of the collection (its id is the type); which items a publication of the whole site took along (then everything is purged)",
	},
	{
		CMS: "contentstack", Title: "Contentstack",
		Proof:    "`x-contentstack-hmac-signature: t=…,v1=…`: HMAC-SHA256 of time and body; or, with `scheme: contentstack-rsa-pss`, `X-Contentstack-Request-Signature`: RSA-PSS of the body",
		Unsigned: "Contentstack writes x-contentstack-hmac-signature only for organisations that have it enabled, and X-Contentstack-Request-Signature always: use scheme: contentstack-rsa-pss with public_key_pem, or ask its support for HMAC.",
		Headers:  []string{"X-Contentstack-Hmac-Signature", "X-Contentstack-Request-Signature"},
		Waits:    "30 s", Retries: "4 more, after 5, 25, 125 and 625 s, on anything but 2xx", Fails: "disabled after 10 failures; a 401 counts, so a wrong secret disables it", Test: "none",
		Batches: "a release sends one delivery each item", Version: "`_version`; in the Delivery API the same",
		Never: "a delivery id; the old URL",
	},
	{
		CMS: "kontent", Title: "Kontent.ai",
		Proof:    "`X-Kontent-ai-Signature` (earlier `X-KC-Signature`): HMAC-SHA256 of the body",
		Unsigned: "Kontent.ai signs every delivery; a proxy in front drops the header, or this is another sender.",
		Headers:  []string{"X-Kontent-Ai-Signature", "X-Kc-Signature"},
		Waits:    "not documented", Retries: "yes, the schedule is not documented", Fails: "not documented", Test: "none",
		Batches: "`notifications[]`: several items, each with its own language; an event each", Version: "`last_modified`; in the Delivery API `system.last_modified`",
		Never: "slugs; a delivery id; any order: notifications may come minutes late and swapped",
	},
	{
		CMS: "storyblok", Title: "Storyblok",
		Proof:    "`webhook-signature`: HMAC-SHA1 of the body",
		Unsigned: "Storyblok signs only with a webhook secret, which needs a paid plan: Settings → Webhooks → Webhook secret. Without one, use scheme: query-token and put ?token=… into its URL.",
		Headers:  []string{"Webhook-Signature"},
		Waits:    "120 s", Retries: "none: an event lost on the way stays lost", Fails: "an error in its log", Test: "none",
		Version: "none",
		Never:   "versions; the component (the type is story); the old slug; a delivery id",
	},
	{
		CMS: "woocommerce", Title: "WooCommerce",
		Proof:    "`X-WC-Webhook-Signature`: HMAC-SHA256 of the body",
		Unsigned: "WooCommerce signs all but its test of the connection; a proxy in front drops the header, or this is another sender.",
		Headers:  []string{"X-Wc-Webhook-Topic", "X-Wc-Webhook-Signature", "X-Wc-Webhook-Resource"},
		Waits:    "60 s", Retries: "none: an event lost on the way stays lost", Fails: "disabled after more than 5 failures in a row",
		Test:    "an unsigned form `webhook_id=N` when the webhook is saved; answered 200 and ignored",
		Version: "`date_modified_gmt`; in the REST API the same",
		Never:   "anything but the id of what is deleted; a delivery id that stays the same when it is sent again",
	},
	{
		CMS: "shopify", Title: "Shopify",
		Proof:    "`X-Shopify-Hmac-Sha256`: HMAC-SHA256 of the body, with the app's client secret",
		Unsigned: "Shopify signs every delivery; a proxy in front drops the header, or this is another sender.",
		Headers:  []string{"X-Shopify-Topic", "X-Shopify-Hmac-Sha256", "Shopify-Topic", "Shopify-Hmac-Sha256"},
		Waits:    "5 s, of which 1 s to connect", Retries: "8 over 4 h, with the payload of then", Fails: "a subscription made through the API is removed",
		Test:    "`shopify app webhook trigger`; the test button of the admin's settings signs with another secret",
		Version: "`updated_at`; in the APIs the same",
		Never:   "anything but the id of what is deleted; the old handle. Several subscriptions may tell the same (`X-Shopify-Event-Id`): it is taken once",
	},
	{
		CMS: "github", Title: "GitHub (Decap, Tina and other CMSs in git)",
		Proof:    "`X-Hub-Signature-256: sha256=…`: HMAC-SHA256 of the body",
		Unsigned: "GitHub signs only webhooks that have a secret: Settings → Webhooks → Edit → Secret.",
		Headers:  []string{"X-Github-Event", "X-Github-Delivery"},
		Waits:    "10 s", Retries: "none by itself; Recent Deliveries → Redeliver sends again with the same id", Fails: "nothing", Test: "the event `ping`, when the webhook is made",
		Batches: "all files of a push, an event each; a forced push, a new branch or one too long to list purges everything", Version: "`after`, the hash of the commit",
		Never: "what stands in the files; slugs other than paths",
	},
	{
		CMS: "drupal", Title: "Drupal (module Webhooks)",
		Proof:    "`X-Hub-Signature: sha1=…`: HMAC-SHA1 of the body",
		Unsigned: "The module signs only webhooks that have a secret: Configuration → Web services → Webhooks → Edit → Secret.",
		Headers:  []string{"X-Drupal-Webhooks-Event", "X-Drupal-Webhooks-Delivery"},
		Waits:    "not documented", Retries: "not documented", Fails: "not documented", Test: "none", Version: "none",
		Never: "ids and slugs at fixed places: set `paths`. It signs what PHP's json_encode writes, which can differ from what is sent when the content has `< > & '`: if such events fail, use `scheme: token` and a header",
	},
	{
		CMS: "strapi", Title: "Strapi 4 and 5",
		Proof:    "a token in a header of your choice (`Authorization: Bearer …`)",
		Unsigned: "Strapi sends what stands in the webhook's headers: Settings → Webhooks → Edit → Headers: Authorization, Bearer and the secret.",
		Headers:  []string{"X-Strapi-Event"},
		Waits:    "10 s", Retries: "none: its queue is in memory, an event lost on the way stays lost", Fails: "an error in its log", Test: "`trigger-test`, the button Trigger",
		Batches: "publishing many sends one delivery each", Version: "`updatedAt`, not of drafts; in the API the same",
		Never: "a delivery id; the old slug; relations of what is deleted or unpublished; changes of users",
	},
	{
		CMS: "prismic", Title: "Prismic",
		Proof:    "the field `secret` of the body",
		Unsigned: "Prismic's secret is null until it is set: Settings → Webhooks → your webhook → Secret.",
		Waits:    "not documented", Retries: "5 more, 10 min apart, on anything but 200", Fails: "stays in its log for 30 days", Test: "`test-trigger`, the button Trigger it",
		Batches: "`documents[]`, an event each; a change of custom types or tags alone names none, and then everything is purged", Version: "none",
		Never: "types, slugs and languages (the type is `document`: tag cache entries by the document's id); whether something was published, edited or taken away",
	},
	{
		CMS: "datocms", Title: "DatoCMS",
		Proof:    "basic authentication (or a header of your choice: `scheme: token`)",
		Unsigned: "DatoCMS sends what is set: Project settings → Webhooks → Edit → HTTP basic auth.",
		Waits:    "8 s, of which 2 s to connect", Retries: "if auto-retry is on, up to 7, after 2 min to 2 days", Fails: "stays in its log", Test: "none",
		Batches: "cache tags: hundreds in one delivery; they are exact texts, never patterns", Version: "`meta.updated_at` of published records; in the Content Delivery API `_updatedAt`",
		Never: "languages (of a localised slug the first counts; all stand in `payload.entity.attributes.slug`); a delivery id when the payload is a template of yours",
	},
	{
		CMS: "directus", Title: "Directus",
		Proof:    "a token in a header of the Flow's operation (`Authorization: Bearer …`)",
		Unsigned: "Directus sends what the operation says: Settings → Flows → Request URL → Headers: Authorization, Bearer and the secret.",
		Waits:    "not documented", Retries: "none: an event lost on the way stays lost", Fails: "an error in the Flow's log", Test: "none",
		Batches: "`keys[]`: an event each", Version: "`date_updated`, if the change has it; in the API the same",
		Never: "a delivery id; fields that did not change, so often no slug; anything but the keys of what is deleted",
	},
	{
		CMS: "umbraco", Title: "Umbraco",
		Proof:    "a token in a header of your choice (`X-Freshwire-Token`)",
		Unsigned: "Umbraco sends what stands in the webhook's headers: Settings → Webhooks → Edit → Headers: X-Freshwire-Token and the secret.",
		Headers:  []string{"Umb-Webhook-Event"},
		Waits:    "not documented", Retries: "up to 5", Fails: "stays in its log", Test: "none",
		Batches: "all cultures of a document, an event each", Version: "`UpdateDate`; in the Delivery API `updateDate`",
		Never: "a delivery id; anything but the id of what is unpublished or deleted (with payload type Minimal: of anything)",
	},
	{
		CMS: "agility", Title: "Agility CMS",
		Proof:    "a parameter of the URL (`?token=…`)",
		Unsigned: "Agility has neither signatures nor headers: put ?token= and the secret at the end of the webhook's URL.",
		Waits:    "not documented", Retries: "none: an event lost on the way stays lost", Fails: "nothing", Test: "Send Test Payload, which looks like a real one",
		Version: "`contentVersionID` or `pageVersionID` on publish; in the Fetch API `properties.versionID`",
		Never:   "slugs; a delivery id",
	},
	{
		CMS: "buttercms", Title: "ButterCMS",
		Proof:    "a token in a header of your choice (`Authorization: Bearer …`)",
		Unsigned: "ButterCMS sends what stands in the webhook's headers: Settings → Webhooks → Edit → Headers: Authorization, Bearer and the secret.",
		Waits:    "not documented", Retries: "not documented", Fails: "not documented", Test: "none",
		Version: "`updated` on publish; in the API the same",
		Never:   "a delivery id; the old slug; the type of pages without one",
	},
	{
		CMS: "craft", Title: "Craft (plugin Webhooks)",
		Proof:    "a token in a header of your choice (`X-Freshwire-Token`)",
		Unsigned: "The plugin sends what stands in the webhook's headers: Webhooks → Edit → Request headers: X-Freshwire-Token and the secret.",
		Waits:    "not documented", Retries: "as `maxAttempts` of the plugin says (1: none), 60 s apart", Fails: "stays in its log", Test: "none",
		Version: "`dateUpdated`, if the payload has it; in the Element API the same",
		Never:   "a delivery id; the old slug; the site by name (`payload.sender.siteId`). Drafts are saved as well, while somebody types, unless the webhook filters them",
	},
	{
		CMS: "standardwebhooks", Title: "Standard Webhooks",
		Proof:    "`webhook-id`, `webhook-timestamp`, `webhook-signature: v1,…`: HMAC-SHA256 of id, time and body",
		Unsigned: "A Standard Webhooks sender writes webhook-id, webhook-timestamp and webhook-signature; those of Svix begin with svix- (cms: svix).",
		Headers:  []string{"Webhook-Id"},
		Waits:    "up to the sender", Retries: "up to the sender; the id stays the same", Fails: "up to the sender", Test: "up to the sender",
		Version: "what `paths.version` names", Never: "–",
	},
	{
		CMS: "svix", Title: "Svix",
		Proof:    "`svix-id`, `svix-timestamp`, `svix-signature`: as Standard Webhooks",
		Unsigned: "A Svix sender writes svix-id, svix-timestamp and svix-signature; newer ones may write webhook-id … (cms: standardwebhooks).",
		Headers:  []string{"Svix-Id", "Svix-Signature"},
		Waits:    "15 s", Retries: "7 more over about 28 h; the id stays the same", Fails: "the endpoint is disabled after 5 days", Test: "as the sender's event types say",
		Version: "what `paths.version` names", Never: "–",
	},
	{
		CMS: "generic", Title: "Generic",
		Proof: "what `scheme` says: `hmac`, `token`, `basic`, `query-token`, `body-secret`, `standardwebhooks` or `none`",
		Waits: "up to the sender", Retries: "up to the sender", Fails: "up to the sender", Test: "an event called `ping`",
		Version: "what `paths.version` names",
		Never:   "a delivery id unless `delivery_id_header` names its header: without an id, equal bytes may be a repeat or a second save, and are applied once more rather than lost",
	},
}
