package session

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/freshwire/freshwire/internal/testkit"
	"github.com/redis/go-redis/v9"
)

// stores are the Redis kinds that sessions must live in.
var stores = map[string]func(testing.TB) redis.UniversalClient{
	"redis":   func(t testing.TB) redis.UniversalClient { return testkit.Redis(t) },
	"cluster": func(t testing.TB) redis.UniversalClient { return testkit.Cluster(t) },
	"embedded": func(t testing.TB) redis.UniversalClient {
		m := miniredis.RunT(t)
		rdb := redis.NewClient(&redis.Options{Addr: m.Addr()})
		t.Cleanup(func() { rdb.Close() })
		return rdb
	},
}

func mustUser(t testing.TB, text string) User {
	t.Helper()
	u, err := ParseUser([]byte(text), time.UnixMilli(1795176000123))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func mustCreate(t testing.TB, s *Store, text string) (id string) {
	t.Helper()
	id, err := s.Create(t.Context(), mustUser(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// showing is a request with these cookies.
func showing(ids ...string) *http.Request {
	r := httptest.NewRequest("GET", "http://example.com"+Path, nil)
	for _, id := range ids {
		r.AddCookie(&http.Cookie{Name: CookieName, Value: id})
	}
	return r
}

func TestSessionLivesFromItsMakingToItsEnd(t *testing.T) {
	for name, start := range stores {
		t.Run(name, func(t *testing.T) {
			rdb := start(t)
			var told []string
			s := New(rdb, testkit.Logger(t), Config{Ended: func(_ context.Context, session string) error {
				told = append(told, session)
				return nil
			}})
			id := mustCreate(t, s, `{"userId":"42","email":"a@example.com"}`)
			other := mustCreate(t, s, `{"userId":"42"}`)
			answer := http.Header{}
			got, err := s.Of(showing(id), answer)
			if err != nil || got.UserID != "42" || string(got.User) != `{"createdAt":1795176000123,"email":"a@example.com","userId":"42"}` || got.Name == "" {
				t.Fatalf("Of = %+v (%s), %v", got, got.User, err)
			}
			if c := answer.Get("Set-Cookie"); !strings.HasPrefix(c, "session_id="+id+"; Path=/; Max-Age=86400; HttpOnly; SameSite=Lax") {
				t.Errorf("the cookie is renewed as %q", c)
			}
			for range 2 { // a repeat does no harm
				if err := s.End(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.Of(showing(id), nil); !errors.Is(err, ErrNone) {
				t.Errorf("after its end: %v, want ErrNone", err)
			}
			if len(told) != 1 || told[0] != got.Name {
				t.Errorf("told the ends of %q, want %q alone", told, got.Name)
			}
			if _, err := s.Of(showing(other), nil); err != nil {
				t.Errorf("another session of the same user ended, too: %v", err)
			}
		})
	}
}

func TestIDIsNowhereButInTheBrowser(t *testing.T) {
	rdb := testkit.Redis(t)
	var log strings.Builder
	var mu sync.Mutex
	s := New(rdb, slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	}), &slog.HandlerOptions{Level: slog.LevelDebug})), Config{})
	id := mustCreate(t, s, `{"userId":"42"}`)
	if len(id) < 43 {
		t.Errorf("an id of %d characters, want 256 bits", len(id))
	}
	found, err := s.Of(showing(id), nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := rdb.Keys(t.Context(), "*").Val()
	if len(keys) != 1 || keys[0] != "fw:s:{"+found.Name+"}" || strings.Contains(keys[0]+rdb.Get(t.Context(), keys[0]).Val(), id) {
		t.Errorf("the store holds %q, want the hash of the id alone", keys)
	}
	h := NewHandler(s, func(h http.Handler) http.Handler { return h }, s.log)
	rdb.Close() // from here on all fails, and is logged
	for _, method := range []string{"GET", "DELETE"} {
		r := showing(id)
		r.Method = method
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	if text := log.String(); !strings.Contains(text, "sessions unknown") || strings.Contains(text, id) {
		t.Errorf("the log tells the id, or nothing: %s", text)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestSessionSlidesWithoutAWriteForEachVisit(t *testing.T) {
	rdb := testkit.Redis(t)
	s := New(rdb, testkit.Logger(t), Config{TTL: time.Hour})
	id := mustCreate(t, s, `{"userId":"42"}`)
	key := rdb.Keys(t.Context(), "*").Val()[0]
	for _, tc := range []struct {
		left, want time.Duration
	}{
		{59 * time.Minute, 59 * time.Minute}, // too early to write
		{55 * time.Minute, 55 * time.Minute},
		{53 * time.Minute, time.Hour},
		{time.Second, time.Hour},
		{24 * time.Hour, time.Hour}, // made when sessions lived longer
	} {
		rdb.PExpire(t.Context(), key, tc.left)
		if _, err := s.Of(showing(id), nil); err != nil {
			t.Fatal(err)
		}
		if got := rdb.PTTL(t.Context(), key).Val(); got > tc.want || got < tc.want-30*time.Second {
			t.Errorf("a visit with %v left: %v are left then, want %v", tc.left, got, tc.want)
		}
	}
	rdb.PExpire(t.Context(), key, time.Millisecond)
	testkit.Until(t, "the session expires", func() bool { return rdb.Exists(t.Context(), key).Val() == 0 })
	if _, err := s.Of(showing(id), nil); !errors.Is(err, ErrNone) {
		t.Errorf("an expired session: %v, want ErrNone", err)
	}
}

// A visit in the moment of the end must not bring the session back.
func TestVisitAtTheEndDoesNotReviveASession(t *testing.T) {
	rdb := testkit.Redis(t)
	s := New(rdb, testkit.Logger(t), Config{TTL: time.Minute})
	for range 50 {
		id := mustCreate(t, s, `{"userId":"42"}`)
		rdb.PExpire(t.Context(), s.key(nameOf(id)), 10*time.Second) // each visit slides
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 5 {
					_, _ = s.Of(showing(id), nil)
				}
			})
		}
		if err := s.End(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Of(showing(id), nil); !errors.Is(err, ErrNone) {
			t.Fatalf("after the end: %v, want ErrNone", err)
		}
		wg.Wait()
	}
	if keys := rdb.Keys(t.Context(), "*").Val(); len(keys) != 0 {
		t.Errorf("%d sessions are left in the store", len(keys))
	}
}

func TestEndThatCouldNotBeToldIsToldByTheNextTry(t *testing.T) {
	rdb := testkit.Redis(t)
	away, told := true, 0
	s := New(rdb, testkit.Logger(t), Config{Ended: func(context.Context, string) error {
		if away {
			return errors.New("away")
		}
		told++
		return nil
	}})
	id := mustCreate(t, s, `{"userId":"42"}`)
	if err := s.End(t.Context(), id); err == nil {
		t.Error("an end that was not told is no error")
	}
	if _, err := s.Of(showing(id), nil); !errors.Is(err, ErrNone) {
		t.Errorf("nodes do not know of the end, and the session lives on: %v", err)
	}
	away = false
	if err := s.End(t.Context(), id); err != nil || told != 1 {
		t.Errorf("the next try = %v, told %d times", err, told)
	}
	if keys := rdb.Keys(t.Context(), "*").Val(); len(keys) != 0 {
		t.Errorf("%q is left in the store", keys)
	}
}

func TestMadeUpIDTellsNobodyAndLeavesNothing(t *testing.T) {
	rdb := testkit.Redis(t)
	s := New(rdb, testkit.Logger(t), Config{Ended: func(context.Context, string) error {
		t.Error("an id that anybody made up is told to all nodes")
		return nil
	}})
	if err := s.End(t.Context(), strings.Repeat("x", 43)); err != nil {
		t.Error(err)
	}
	if keys := rdb.Keys(t.Context(), "*").Val(); len(keys) != 0 {
		t.Errorf("%q is left in the store", keys)
	}
}

func TestOddCookiesAreNobodyAndCostNoCall(t *testing.T) {
	rdb := testkit.Redis(t)
	s := New(rdb, testkit.Logger(t), Config{})
	a, b := mustCreate(t, s, `{"userId":"a"}`), mustCreate(t, s, `{"userId":"b"}`)
	if got, err := s.Of(showing(a, a, "old"), nil); err != nil || got.UserID != "a" {
		t.Errorf("one cookie twice, and one of another program = %v, %v, want a", got.UserID, err)
	}
	rdb.Close()
	for name, r := range map[string]*http.Request{
		"none": showing(), "empty": showing(""), "short": showing(a[:42]), "long": showing(a + "A"), "odd": showing(a[:42] + "="),
		"two": showing(a, b), // one may be planted
	} {
		if _, err := s.Of(r, nil); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v, want ErrNone without a call", name, err)
		}
	}
}

func TestStoreThatIsAwayIsNotNobody(t *testing.T) {
	server := testkit.StartServer(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1})
	defer rdb.Close()
	s := New(rdb, testkit.Logger(t), Config{})
	id := mustCreate(t, s, `{"userId":"42"}`)
	check := func(how string) {
		start := time.Now()
		if _, err := s.Of(showing(id), nil); err == nil || errors.Is(err, ErrNone) {
			t.Errorf("%s: Of = %v, want an error that is not ErrNone", how, err)
		}
		if err := s.End(t.Context(), id); err == nil {
			t.Errorf("%s: a session was ended", how)
		}
		if _, err := s.Create(t.Context(), mustUser(t, `{"userId":"42"}`)); err == nil {
			t.Errorf("%s: a session was made", how)
		}
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("%s: three answers took %v", how, took)
		}
	}
	if err := server.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	check("hung")
	server.Kill()
	check("killed")
}

func TestConfigComplaints(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Errorf("the zero Config: %v", err)
	}
	err := Config{TTL: time.Second, CORSOrigins: []string{"https://a.example/"}}.Validate()
	if err == nil || !strings.Contains(err.Error(), "live for 1s") || !strings.Contains(err.Error(), `"https://a.example/"`) {
		t.Errorf("Validate = %v, want both complaints", err)
	}
}
