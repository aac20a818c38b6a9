package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/freshwire/freshwire/admin"
	"github.com/freshwire/freshwire/event"
	"github.com/freshwire/freshwire/feed"
	"github.com/freshwire/freshwire/session"
	"github.com/freshwire/freshwire/sse"
)

// newSessions makes what knows visitors, and has the streams ask it.
func (a *app) newSessions() {
	c := &a.configs
	c.Session.Secure = !a.roles.dev // browsers take a secure cookie from plain HTTP on some machines only
	c.Session.Ended, c.Session.Metrics = a.changes.EndSession, a.reg
	a.visits = session.New(a.client(cacheOptions), a.log, c.Session)

	c.SSE.Enter, c.SSE.Wildcards = a.enter, a.site.channels.Wildcards()
	if ttl := c.Session.TTL; ttl > 0 { // streams come back and are asked again before their session could expire
		c.SSE.MaxStreamAge = min(c.SSE.MaxStreamAge, ttl/2)
	}
}

// enter decides who may listen to channels. Only who asks for a private one is
// looked up; whether such a channel is in use makes no difference.
func (a *app) enter(r *http.Request, channels []string) (sse.Listener, error) {
	if !slices.ContainsFunc(channels, a.site.channels.Private) || a.guard.ShowsToken(r) {
		return sse.Listener{}, nil
	}
	who, err := a.visits.Of(r, answerOf(r))
	switch {
	case errors.Is(err, session.ErrNone):
		return sse.Listener{}, sse.ErrForbidden
	case err != nil:
		return sse.Listener{}, err
	case !a.site.channels.Allows(who.UserID, channels...):
		return sse.Listener{}, sse.ErrForbidden
	}
	return sse.Listener{Session: who.Name}, nil
}

// user returns whose session r shows, "" for nobody's.
func (a *app) user(r *http.Request, answer http.Header) (string, error) {
	who, err := a.visits.Of(r, answer)
	if errors.Is(err, session.ErrNone) {
		return "", nil
	}
	return who.UserID, err
}

// answerKey is where withAnswer leaves the header of the answer.
type answerKey struct{}

// withAnswer lets whoever is asked about a request of h renew its cookie.
func withAnswer(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header["Cookie"]) > 0 {
			r = r.WithContext(context.WithValue(r.Context(), answerKey{}, w.Header()))
		}
		h.ServeHTTP(w, r)
	})
}

func answerOf(r *http.Request) http.Header {
	answer, _ := r.Context().Value(answerKey{}).(http.Header)
	return answer
}

// sessionEnds hands the log to a hub, and tells it twice of each session that
// ends: a stream may be about to join that was let in just before the end.
type sessionEnds struct{ *sse.Hub }

// letInTime is longer than it takes from an answer about a session to its stream.
const letInTime = 3 * time.Second

func (s sessionEnds) Broadcast(recs []event.Record) {
	s.Hub.Broadcast(recs)
	for _, rec := range recs {
		if rec.EndsSession != "" {
			time.AfterFunc(letInTime, func() { s.EndSession(rec.EndsSession) })
		}
	}
}

// publish appends an application's own news to the log.
func (a *app) publish(ctx context.Context, channels []string, data []byte) (string, error) {
	at, err := a.changes.AppendRaw(ctx, channels, data)
	switch {
	case errors.Is(err, feed.ErrChannels):
		return "", fmt.Errorf("%w: a channel is 1 to %d bytes of text without control characters and *", admin.ErrPublish, feed.MaxChannelName)
	case errors.Is(err, feed.ErrData):
		return "", fmt.Errorf("%w: data is one JSON object of at most 64 KiB", admin.ErrPublish)
	}
	return at.String(), err
}
