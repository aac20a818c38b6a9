package testkit

import (
	"testing"
	"time"
)

func TestReplicaLagsWhileItsLineIsHeld(t *testing.T) {
	master := StartServer(t)
	replica, line := StartReplica(t, master)
	writer, reader := master.Client(t), replica.Client(t)
	has := func(want string) func() bool {
		return func() bool { return reader.Get(t.Context(), "k").Val() == want }
	}
	writer.Set(t.Context(), "k", "1", 0)
	Until(t, "the replica has it", has("1"))
	line.Hold()
	writer.Set(t.Context(), "k", "2", 0)
	if n, err := writer.Wait(t.Context(), 1, 50*time.Millisecond).Result(); n != 0 && err == nil {
		t.Errorf("%d replicas confirm through a line that is held", n)
	}
	if !has("1")() {
		t.Error("the replica has what its line holds back")
	}
	line.Release()
	Until(t, "the replica has the rest", has("2"))
	line.Cut()
	writer.Set(t.Context(), "k", "3", 0)
	Until(t, "it connects again", has("3"))
}
