package testkit

import (
	"net"
	"strings"
	"testing"
)

// StartReplica starts a replica that follows master through a proxy: while that
// holds, the replica answers with what it had. It is returned in step.
func StartReplica(t testing.TB, master *Server) (*Server, *Proxy) {
	t.Helper()
	if err := master.Client(t).ConfigSet(t.Context(), "repl-diskless-sync-delay", "0").Err(); err != nil {
		t.Fatal(err)
	}
	line := StartProxy(t, master.Addr)
	host, port, _ := net.SplitHostPort(line.Addr)
	replica := StartServer(t, "--replicaof", host+" "+port)
	rdb := replica.Client(t)
	Until(t, "the replica follows", func() bool {
		return strings.Contains(rdb.Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	return replica, line
}
