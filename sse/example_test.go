package sse_test

import (
	"fmt"
	"strings"

	"github.com/freshwire/freshwire/sse"
)

func ExampleReader() {
	body := "retry: 2000\n\nid: 7-0\nevent: ready\ndata: {\"position\":\"7-0\"}\n\nid: 9-0\ndata: {\"id\":\"x\"}\n\n"
	events := sse.NewReader(strings.NewReader(body))
	for {
		m, err := events.Next()
		if err != nil {
			break
		}
		fmt.Println(m.ID, m.Name, m.Data)
	}
	fmt.Println("come back after", events.Retry(), "from", events.LastEventID())
	// Output:
	// 7-0 ready {"position":"7-0"}
	// 9-0  {"id":"x"}
	// come back after 2s from 9-0
}
