package webhook

import "encoding/json"

// MarshalJSON writes r as scripts read it: what is not known is null, what
// there is nothing to say about is left out.
func (r Result) MarshalJSON() ([]byte, error) {
	type item struct {
		Event        *string `json:"event"`
		Action       *string `json:"action"`
		ContentType  *string `json:"content_type"`
		ID           *string `json:"id"`
		Slug         *string `json:"slug"`
		Locale       *string `json:"locale"`
		PreviousSlug string  `json:"previous_slug,omitempty"`
		Environment  string  `json:"environment,omitempty"`
		Version      string  `json:"version,omitempty"`

		Path    string   `json:"path,omitempty"`
		Ref     string   `json:"ref,omitempty"`
		EventID string   `json:"event_id,omitempty"`
		Tags    []string `json:"tags,omitempty"`
		All     bool     `json:"all,omitempty"`
	}
	of := func(it Item) item {
		return item{orNull(it.Event), orNull(string(it.Action)), orNull(it.ContentType), orNull(it.ID), orNull(it.Slug), orNull(it.Locale),
			it.PreviousSlug, it.Environment, it.Version, it.Path, it.Ref, it.EventID, it.Tags, it.All}
	}
	report := struct {
		Valid      bool    `json:"valid"`
		Reason     *string `json:"reason"`
		DeliveryID *string `json:"delivery_id"`
		item
		Ping        bool   `json:"ping,omitempty"`
		SignatureOK bool   `json:"signature_ok,omitempty"`
		Status      int    `json:"ack_status"`
		Why         string `json:"why,omitempty"`
		Items       []item `json:"items,omitempty"` // of a batch
	}{
		Valid: r.Valid(), Reason: orNull(string(r.Reason)), DeliveryID: orNull(r.DeliveryID),
		item: of(r.Whole), Ping: r.Ping, SignatureOK: r.SignatureOK, Status: r.Status(),
	}
	for _, it := range r.Batch {
		report.Items = append(report.Items, of(it))
	}
	if r.Err != nil {
		report.Why = r.Err.Error()
	}
	return json.Marshal(report)
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
