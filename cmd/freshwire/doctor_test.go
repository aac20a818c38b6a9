package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/freshwire/freshwire/internal/testkit"
)

// rowsOf returns the rows of a report by the name of what was looked at.
func rowsOf(t *testing.T, out string) map[string][]finding {
	t.Helper()
	rows := map[string][]finding{}
	for _, line := range jsonLines(t, out) {
		f := finding{Check: line["check"].(string), Level: level(line["level"].(string)), Text: line["text"].(string)}
		if f.Text == "" || strings.Contains(f.Text, "\n") {
			t.Errorf("row %+v is not one line of text", f)
		}
		rows[f.Check] = append(rows[f.Check], f)
	}
	return rows
}

// expect fails the test unless a row of that name has the level, and the words.
func expect(t *testing.T, rows map[string][]finding, check string, want level, words ...string) {
	t.Helper()
rows:
	for _, f := range rows[check] {
		for _, word := range words {
			if !strings.Contains(f.Text, word) {
				continue rows
			}
		}
		if f.Level == want {
			return
		}
	}
	t.Errorf("%s = %+v, want %s with %q", check, rows[check], want, words)
}

// nothingElse is an environment without settings, in an empty directory.
func nothingElse(t *testing.T) {
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "FRESHWIRE_") || name == "REDIS_URL" || name == "PORT" || strings.HasPrefix(name, "LOG_") {
			t.Setenv(name, "") // so that it comes back
			os.Unsetenv(name)
		}
	}
	t.Chdir(t.TempDir())
}

func TestDoctorFindsNothingWrongWithAGoodRedis(t *testing.T) {
	nothingElse(t)
	server := testkit.StartServer(t, "--appendonly", "yes")
	t.Setenv("REDIS_URL", server.URL())
	t.Setenv("FRESHWIRE_ADMIN_TOKEN", "0123456789abcdef0123456789abcdef")
	t.Setenv("FRESHWIRE_SSE_MAX_SUBSCRIBERS", "100")
	out, code := command(t, "", "doctor", "--json", "--url", "http://127.0.0.1:1")
	rows := rowsOf(t, out)
	for _, check := range []string{"environment", "config", "redis", "version", "eviction", "memory", "clients", "replicas", "clock", "permissions", "writes", "files"} {
		expect(t, rows, check, levelFine)
	}
	expect(t, rows, "persistence", levelFine, "append-only file is on", "everysec")
	expect(t, rows, "journal", levelWarn, "FRESHWIRE_SPOOL_DIR is not set")
	expect(t, rows, "server", levelFail, "127.0.0.1:1", "refused") // since --url named one
	if code != exitFailed {
		t.Errorf("exit %d, want %d", code, exitFailed)
	}
	if keys := server.Client(t).Keys(t.Context(), "*").Val(); len(keys) > 0 {
		t.Errorf("the doctor left %q behind", keys)
	}
}

func TestDoctorPassesWithWarningsAlone(t *testing.T) {
	nothingElse(t)
	out, code := command(t, "", "doctor")
	if code != exitDone || !strings.Contains(out, "warn  redis") || !strings.Contains(out, "nothing survives a restart") || !strings.Contains(out, "ok    server       none runs at") {
		t.Errorf("doctor = %d\n%s", code, out)
	}
}

func TestDoctorSaysWhatIsWrongWithRedis(t *testing.T) {
	nothingElse(t)
	server := testkit.StartServer(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--min-replicas-to-write", "1")
	t.Setenv("REDIS_URL", server.URL())
	t.Setenv("FRESHWIRE_ACK", "replicated")
	rdb := server.Client(t)
	if err := rdb.Do(t.Context(), "ACL", "SETUSER", "default", "-xadd", "resetkeys", "~fw:*").Err(); err != nil {
		t.Fatal(err)
	}
	out, code := command(t, "", "doctor", "--json")
	rows := rowsOf(t, out)
	expect(t, rows, "eviction", levelFail, "allkeys-lru", "noeviction")
	expect(t, rows, "replicas", levelFail, "replicated", "no replica")
	expect(t, rows, "permissions", levelFail, "XADD fw:{fw}:doctor", "GET asynq:{fw}:doctor", "more")
	expect(t, rows, "writes", levelFail, "refused")
	expect(t, rows, "persistence", levelWarn, "loses acknowledged webhooks")
	if code != exitFailed {
		t.Errorf("exit %d, want %d", code, exitFailed)
	}
}

func TestDoctorLooksAtEveryMasterOfACluster(t *testing.T) {
	nothingElse(t)
	addrs := testkit.StartCluster(t)
	odd := redis.NewClient(&redis.Options{Addr: addrs[1]})
	defer odd.Close()
	for name, value := range map[string]string{"maxmemory": "1mb", "maxmemory-policy": "allkeys-lru"} {
		if err := odd.ConfigSet(t.Context(), name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("REDIS_URL", "redis+cluster://"+strings.Join(addrs, ","))
	out, _ := command(t, "", "doctor", "--json")
	rows := rowsOf(t, out)
	expect(t, rows, "redis", levelFine, "cluster", "3 masters")
	expect(t, rows, "eviction", levelFail, addrs[1]+": ", "allkeys-lru")
	expect(t, rows, "memory", levelFail, addrs[1]+": ", "full")
	if text := rows["eviction"][0].Text; strings.Contains(text, addrs[0]) || strings.Contains(text, addrs[2]) {
		t.Errorf("eviction = %q, want the odd one alone", text)
	}
}

func TestDoctorNeverShowsSecrets(t *testing.T) {
	nothingElse(t)
	const secret = "hunter2-hunter2"
	server := testkit.StartServer(t)
	if err := server.Client(t).ConfigSet(t.Context(), "requirepass", "another").Err(); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("freshwire.yaml", `
sources: { blog: { cms: generic, scheme: token, secret: "${S}" } }
targets: { site: { kind: nextjs, url: "http://127.0.0.1:1/api/revalidate?key=${S}", secret: "${S}" } }
routes:
  - { path: "/a/{id}", origin: "http://127.0.0.1:1/posts/{id}?key=${S}", headers: { Authorization: "${S}" } }
`)
	for name, value := range map[string]string{
		"S": secret, "REDIS_URL": "redis://user:" + secret + "@" + server.Addr, "FRESHWIRE_ADMIN_TOKEN": secret, "FRESHWIRE_ENTRIES_TOKEN": secret,
		"FRESHWIRE_REVALIDATION_SECRET": secret, "FRESHWIRE_REPLICA_URL": "redis://:" + secret + "@" + server.Addr,
	} {
		t.Setenv(name, value)
	}
	for _, args := range [][]string{{"doctor"}, {"doctor", "--json"}, {"doctor", "--stream", "http://user:" + secret + "@127.0.0.1:1/api/events?lastEventId=" + secret}} {
		out, code := command(t, "", args...)
		if code != exitFailed || strings.Contains(out, secret) {
			t.Errorf("freshwire %s = %d, and shows a secret:\n%s", args[0], code, out)
		}
		if args[len(args)-1] == "--json" {
			rows := rowsOf(t, out)
			expect(t, rows, "redis", levelFail, server.Addr, "WRONGPASS")
			expect(t, rows, "origin", levelFail, "http://127.0.0.1:1/posts/", "refused")
			expect(t, rows, "target", levelFail, "site at http://127.0.0.1:1/api/revalidate", "refused")
			expect(t, rows, "admin", levelWarn, "less than 16")
			expect(t, rows, "environment", levelFail, "FRESHWIRE_ENTRIES_TOKEN")
		}
	}
}

func TestDoctorTellsEveryMistakeOfTheConfig(t *testing.T) {
	nothingElse(t)
	t.Setenv("FRESHWIRE_SSE_HEARTBEAT", "1m")
	t.Setenv("LOG_LEVEL", "loud")
	t.Setenv("REDIS_URL", "redis://h1,h2")
	if err := os.WriteFile("freshwire.yaml", []byte("sources: { blog: { cms: ghots, secret: abc } }\nrutes: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := command(t, "", "doctor", "--json")
	rows := rowsOf(t, out)
	expect(t, rows, "environment", levelFail, "LOG_LEVEL")
	expect(t, rows, "environment", levelFail, "ping after 1m0s")
	expect(t, rows, "config", levelFail, "freshwire.yaml:1", "ghost")
	expect(t, rows, "config", levelFail, "freshwire.yaml:2", "rutes")
	expect(t, rows, "redis", levelFail, "cannot be understood")
	if code != exitFailed {
		t.Errorf("exit %d, want %d", code, exitFailed)
	}
}

// What a server tells is judged without one; each row is a server.
func TestServersAreJudgedByWhatTheyTell(t *testing.T) {
	info := func(fields ...string) master { return master{info: strings.Join(fields, "\r\n") + "\r\n"} }
	with := func(m master, config ...string) master {
		m.config = map[string]string{}
		for i := 0; i < len(config); i += 2 {
			m.config[config[i]] = config[i+1]
		}
		return m
	}
	journal := func(on bool) func(master) finding {
		return func(m master) finding { return judgePersistence(m, on) }
	}
	replicas := func(down time.Duration) func(master) finding {
		return func(m master) finding { return judgeReplicas(m, down, false) }
	}
	for _, tc := range []struct {
		name  string
		judge func(master) finding
		m     master
		want  level
		word  string
	}{
		{"old", judgeVersion, info("redis_version:6.2.14"), levelFail, "7.0"},
		{"very old", judgeVersion, info("redis_version:2.8.0"), levelFail, "7.0"},
		{"just new enough", judgeVersion, info("redis_version:7.0.0"), levelFine, "Redis 7.0.0"},
		{"two digits", judgeVersion, info("redis_version:10.1.0"), levelFine, "Redis 10.1.0"},
		{"valkey", judgeVersion, info("redis_version:7.2.4", "server_name:valkey", "valkey_version:8.1.0"), levelFine, "Valkey 8.1.0"},
		{"dragonfly", judgeVersion, info("redis_version:7.4.0", "dragonfly_version:df-v1.2"), levelWarn, "Dragonfly"},
		{"silent", judgeVersion, info(), levelWarn, "does not tell"},

		{"room", judgeMemory, info("used_memory:1000000", "maxmemory:100000000"), levelFine, "1 %"},
		{"eighty", judgeMemory, info("used_memory:80000000", "maxmemory:100000000"), levelWarn, "80 %"},
		{"full", judgeMemory, info("used_memory:100000001", "maxmemory:100000000"), levelFail, "refuses writes"},
		{"no limit", judgeMemory, info("used_memory:1000000", "maxmemory:0", "total_system_memory:100000000"), levelFine, "not set"},
		{"no limit, machine full", judgeMemory, info("used_memory:90000000", "maxmemory:0", "total_system_memory:100000000"), levelWarn, "machine"},
		{"memory untold", judgeMemory, info(), levelWarn, "does not tell"},

		{"few clients", judgeClients, info("connected_clients:10", "maxclients:10000"), levelFine, "10 of 10000"},
		{"many clients", judgeClients, info("connected_clients:8500", "maxclients:10000"), levelWarn, "maxclients"},

		{"aof", journal(false), with(info("aof_enabled:1"), "appendfsync", "everysec"), levelFine, "everysec"},
		{"aof and journal", journal(true), info("aof_enabled:1"), levelFine, "too"},
		{"journal", journal(true), info("aof_enabled:0"), levelFine, "cold cache"},
		{"neither", journal(false), info("aof_enabled:0"), levelWarn, "loses"},
		{"untold", journal(false), info(), levelWarn, "does not tell"},
		{"aof broken", journal(true), info("aof_enabled:1", "aof_last_write_status:err"), levelFail, "disk"},
		{"snapshot broken", journal(true), info("aof_enabled:0", "rdb_last_bgsave_status:err"), levelWarn, "snapshot"},
		{"loading", journal(true), info("loading:1"), levelFail, "wait"},

		{"alone", replicas(0), info("connected_slaves:0"), levelFine, "none"},
		{"unguarded", replicas(0), with(info("connected_slaves:1"), "min-replicas-to-write", "0"), levelWarn, "min-replicas-to-write is 0"},
		{"guarded", replicas(30 * time.Second), with(info("connected_slaves:1"), "min-replicas-to-write", "1", "min-replicas-max-lag", "10"), levelFine, "min-replicas-to-write 1"},
		{"two masters", replicas(10 * time.Second), with(info("connected_slaves:1"), "min-replicas-to-write", "1", "min-replicas-max-lag", "10"), levelWarn, "two"},
		{"out of step", replicas(0), with(info("connected_slaves:1", "min_slaves_good_slaves:0"), "min-replicas-to-write", "1"), levelFail, "writes are refused"},
		{"replicas untold", replicas(0), info(), levelWarn, "does not tell"},

		{"same time", judgeClock, master{ping: time.Millisecond, skew: time.Millisecond}, levelFine, "within"},
		{"near", judgeClock, master{ping: time.Millisecond, skew: -300 * time.Millisecond}, levelFine, "300ms"},
		{"apart", judgeClock, master{ping: time.Millisecond, skew: -5 * time.Second}, levelWarn, "NTP"},
		{"timeless", judgeClock, master{}, levelWarn, "does not tell"},

		{"no scripts", judgePermissions, master{lua: fmt.Errorf("NOPERM eval")}, levelFail, "Lua"},
		{"no answer", judgePermissions, master{lua: fmt.Errorf("ERR unknown acl_check_cmd")}, levelWarn, "not looked at"},
	} {
		if got := tc.judge(tc.m); got.Level != tc.want || !strings.Contains(got.Text, tc.word) {
			t.Errorf("%s: %s %q, want %s with %q", tc.name, got.Level, got.Text, tc.want, tc.word)
		}
	}
	if apart := clocksApart([]master{{skew: time.Second}, {skew: -2 * time.Second}, {}}); apart != 3*time.Second {
		t.Errorf("clocksApart = %v, want 3s", apart)
	}
	slow := judgeAnswers("it", []master{{addr: "a", ping: time.Millisecond}, {addr: "b", ping: 20 * time.Millisecond}})
	if slow.Level != levelWarn || !strings.Contains(slow.Text, "2 masters") {
		t.Errorf("a slow master: %+v", slow)
	}
	if replica := judgeAnswers("it", []master{info("role:slave")}); replica.Level != levelFail {
		t.Errorf("a replica: %+v", replica)
	}
}

// A command in one of our scripts that the doctor does not ask for would be
// refused to a user whom it had found able.
func TestDoctorAsksForEveryCommandOfTheScripts(t *testing.T) {
	asked := map[string]bool{}
	for _, command := range permissionsToAsk("fw") {
		asked[strings.ToUpper(command[0])] = true
	}
	n := 0
	scripts, err := filepath.Glob("../../*/*.lua")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{"redis.call(", "redis.pcall("} {
			for _, after := range strings.Split(string(text), call)[1:] {
				if after[0] != '\'' && after[0] != '"' {
					continue // a name in a variable
				}
				name, _, _ := strings.Cut(after[1:], after[:1])
				if n++; !asked[strings.ToUpper(name)] {
					t.Errorf("%s calls %s, which the doctor does not ask for", path, name)
				}
			}
		}
	}
	if n < 50 {
		t.Errorf("found %d calls; is this the way that scripts call?", n)
	}
}
