package rules_test

import (
	"fmt"

	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/rules"
)

func Example() {
	set, err := rules.Compile([]rules.Rule{{
		On:         []string{"post.*"},
		When:       "payload.data.draft != true",
		Purge:      rules.Purge{Tags: []string{"posts", "{map(payload.data.authors, 'author:' + string(#.id))}"}, Paths: []string{"/blog/{slug}"}},
		Revalidate: []string{"site"},
	}}, []string{"site"})
	if err != nil {
		fmt.Println(err) // every mistake, each with its path in the file
		return
	}
	plan := set.Plan(event.Event{Type: "post", Action: event.Update, Entity: "42", Slug: "hello", PreviousSlug: "helo",
		Payload: []byte(`{"data":{"authors":[{"id":7},{"id":9007199254740993}]}}`)})
	fmt.Println(plan.Purge.Tags, plan.Purge.Paths, plan.Targets, plan.Channels)
	// Output: [posts author:7 author:9007199254740993] [/blog/hello /blog/helo] [site] [post post:42]
}
