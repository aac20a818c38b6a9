package webhook

import "cmp"

// Senders that use Svix (svix.com): Standard Webhooks under its earlier names,
// svix-id, svix-timestamp and svix-signature.
var svixCMS = &cms{
	name:   "svix",
	scheme: "standardwebhooks",
	defaults: func(cfg *SourceConfig) {
		genericDefaults(cfg)
		if cfg.Scheme == "standardwebhooks" {
			cfg.HeaderPrefix = cmp.Or(cfg.HeaderPrefix, "svix")
		}
	},
	decode: decodeGeneric,
	sample: standardWebhooksCMS.sample,
}
