package testkit

import "testing"

func TestServersAnswer(t *testing.T) {
	rdb := Redis(t)
	if err := rdb.Set(t.Context(), "a", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	cluster := Cluster(t)
	for _, key := range []string{"a", "b", "c", "d"} {
		if err := cluster.Set(t.Context(), key, "1", 0).Err(); err != nil {
			t.Fatalf("SET %s: %v", key, err)
		}
	}
}

func TestServerComesBackAfterKill(t *testing.T) {
	s := StartServer(t)
	s.Kill()
	s.Start(t)
	if err := s.Client(t).Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
}
