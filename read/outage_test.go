package read

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestSilentOriginIsLeftAloneForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o outage
		for i := range outageAfter {
			if err := o.err(); err != nil {
				t.Fatalf("after %d failures: %v, want the origin asked", i, err)
			}
			o.note(errOriginSlow)
		}
		if err := o.err(); !errors.Is(err, errOriginSlow) {
			t.Errorf("after %d failures: %v, want the last of them", outageAfter, err)
		}
		<-time.After(outagePause)
		if err := o.err(); err != nil {
			t.Errorf("after the pause: %v, want the origin asked", err)
		}
		o.note(errOriginAway)
		if err := o.err(); !errors.Is(err, errOriginAway) {
			t.Errorf("it failed again: %v, want the pause again", err)
		}
		<-time.After(outagePause)
		o.note(errOriginFailed) // it answers, if badly
		o.note(errOriginAway)
		if err := o.err(); err != nil {
			t.Errorf("one failure after an answer: %v, want the origin asked", err)
		}
	})
}
