package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"

	"github.com/gorilla/mux"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// roleVariable makes this program, started anew, the load or a reference.
const roleVariable = "FRESHWIRE_BENCH_ROLE"

// reference is what a reference server is told on stdin.
type reference struct {
	Header map[string][]string // ours, save Date, which net/http adds by itself
	Body   []byte
	Redis  string // get only
}

func play(role string) error {
	if role == roleLoad {
		return loadPlan()
	}
	var ref reference
	if err := json.NewDecoder(os.Stdin).Decode(&ref); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	switch role {
	case nameRaw:
		return ref.raw(listener.(*net.TCPListener))
	case nameBare:
		return http.Serve(listener, withMemory(http.HandlerFunc(ref.bare)))
	case nameMux:
		router := mux.NewRouter()
		router.HandleFunc(pattern, ref.bare)
		return http.Serve(listener, withMemory(router))
	case nameGet:
		return http.Serve(listener, withMemory(ref.get()))
	}
	return fmt.Errorf("no such role")
}

const roleLoad = "load"

func (ref reference) raw(l *net.TCPListener) error {
	runtime.LockOSThread()
	answer := []byte("HTTP/1.1 200 OK\r\n")
	for name, values := range ref.Header {
		answer = fmt.Appendf(answer, "%s: %s\r\n", name, values[0])
	}
	answer = append(append(answer, "\r\n"...), ref.Body...)
	file, err := l.File() // blocking, which accept is told of once it is ready
	if err != nil {
		return err
	}
	return answerRaw(int(file.Fd()), answer)
}

func (ref reference) bare(w http.ResponseWriter, _ *http.Request) { ref.write(w, ref.Body) }

func (ref reference) write(w http.ResponseWriter, body []byte) {
	h := w.Header()
	for name, values := range ref.Header {
		h[name] = values
	}
	w.Write(body)
}

// get asks Redis for the body, with go-redis as it comes.
func (ref reference) get() http.Handler {
	rdb := redis.NewClient(&redis.Options{Addr: ref.Redis, MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := rdb.Get(r.Context(), getKey(r.URL.Path)).Bytes()
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		ref.write(w, body)
	})
}

func getKey(path string) string { return "bench:" + path }

func fillGet(ctx context.Context, addr string, paths []string, body []byte) error {
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	defer rdb.Close()
	for _, path := range paths {
		if err := rdb.Set(ctx, getKey(path), body, 0).Err(); err != nil {
			return err
		}
	}
	return nil
}

// withMemory adds what the bench asks the references, as it asks ours. One
// comparison of texts a request is what it costs.
func withMemory(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/metrics") {
			h.ServeHTTP(w, r)
			return
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Fprintf(w, "%s %d\n", mallocsMetric, m.Mallocs)
	})
}

const mallocsMetric = "go_memstats_mallocs_total"
