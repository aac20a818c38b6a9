package sse

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"time"
)

// takeOver takes a connection of HTTP/1.1 from net/http, with all that it
// would hold for it, and joins s on it. It returns false where that cannot be.
func (h *Handler) takeOver(w http.ResponseWriter, r *http.Request, s *subscriber) bool {
	if h.cfg.Mode == "plain" || r.ProtoMajor != 1 {
		return false
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	_ = conn.SetDeadline(time.Time{}) // else the first write fails
	limitBuffer(conn)
	limitSilence(conn, h.cfg)

	var head bytes.Buffer
	head.WriteString("HTTP/1.1 200 OK\r\n")
	w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
	_ = w.Header().Write(&head) // to memory
	head.WriteString("\r\n")
	head.Write(s.behind.rest)
	s.behind.rest = bytes.Clone(head.Bytes())

	sh := h.hub.shard()
	if sock := newSocket(conn); sock != nil && !h.portable {
		s.sock = sock
		sh.accept(s)
	} else {
		pumpConn(conn, sh, s, h.cfg.WriteTimeout)
	}
	return true
}

type connKey struct{}

// ConnContext is for http.Server: with it a vanished client is found as soon
// on a connection that stays net/http's as on one that was taken over.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// leave bounds what is kept for the connection of r, which stays net/http's.
func (h *Handler) leave(r *http.Request) {
	conn, ok := r.Context().Value(connKey{}).(net.Conn)
	if !ok {
		return
	}
	limitSilence(conn, h.cfg)
	if r.ProtoMajor == 1 { // later ones carry other answers, too
		limitBuffer(conn)
	}
}
