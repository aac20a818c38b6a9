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

func TestSlotMovesWithItsKeys(t *testing.T) {
	rdb := Cluster(t)
	for _, key := range []string{"{s}a", "{s}b", "{s}c"} {
		rdb.Set(t.Context(), key, key, 0)
	}
	before, _ := rdb.MasterForKey(t.Context(), "{s}a")
	moved := 0
	if err := MoveSlot(t.Context(), rdb, "{s}a", func() { moved++ }); err != nil {
		t.Fatal(err)
	}
	if rdb.ReloadState(t.Context()); moved != 3 {
		t.Errorf("%d keys moved, want 3", moved)
	}
	Until(t, "the client knows the new owner", func() bool {
		after, err := rdb.MasterForKey(t.Context(), "{s}a")
		return err == nil && after.Options().Addr != before.Options().Addr
	})
	for _, key := range []string{"{s}a", "{s}b", "{s}c"} {
		if got := rdb.Get(t.Context(), key).Val(); got != key {
			t.Errorf("%s = %q after the move", key, got)
		}
	}
}
