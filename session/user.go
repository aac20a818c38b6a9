package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// User is whom a session is of.
type User struct {
	ID   string // as channels and the header to origins name them
	json []byte // one object, with userId and createdAt
}

// Bounds of what a back end says of a user, in bytes.
const (
	maxUser   = 4 << 10
	maxUserID = 200 // a channel's name has 256
)

// ErrUser is wrapped by every error of ParseUser. What follows it is for the
// caller, and repeats nothing of the text.
var ErrUser = errors.New("session: not a user")

// ParseUser reads what a back end says of a user: one JSON object whose userId
// is text or a whole number. The rest is theirs; createdAt, in unix
// milliseconds, is ours.
func ParseUser(text []byte, now time.Time) (User, error) {
	if len(text) > maxUser {
		return User{}, fmt.Errorf("%w: it is longer than %d bytes", ErrUser, maxUser)
	}
	fields, id, err := readUser(text)
	if err != nil {
		return User{}, err
	}
	fields["createdAt"] = json.RawMessage(fmt.Sprint(now.UnixMilli()))
	out, err := json.Marshal(fields)
	if err != nil {
		return User{}, fmt.Errorf("%w: %w", ErrUser, err)
	}
	return User{id, out}, nil
}

// storedUser reads what ParseUser made.
func storedUser(text []byte) (User, error) {
	_, id, err := readUser(text)
	return User{id, text}, err
}

func readUser(text []byte) (fields map[string]json.RawMessage, id string, err error) {
	wrong := func(what string) (map[string]json.RawMessage, string, error) {
		return nil, "", fmt.Errorf("%w: %s", ErrUser, what)
	}
	if !utf8.Valid(text) {
		return wrong("it is no UTF-8")
	}
	// Names are compared as they are: a struct would take "USERID", too.
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&fields); err != nil || fields == nil {
		return wrong(`it is one JSON object, such as {"userId":"42"}`)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return wrong("something follows the JSON object")
	}
	raw, ok := fields["userId"]
	if !ok {
		return wrong("userId is missing")
	}
	if id, ok = readID(raw); !ok {
		return wrong(fmt.Sprintf("userId is 1 to %d bytes of text without control characters and without blanks at its ends, or a whole number", maxUserID))
	}
	return fields, id, nil
}

var wholeNumber = regexp.MustCompile(`^(0|-?[1-9][0-9]{0,17})$`)

// readID returns a user's id as text. No two users have the same: what JSON or
// a header would make equal (halves of characters, blanks at the ends, 1.0
// beside 1) is no id.
func readID(raw json.RawMessage) (id string, ok bool) {
	if wholeNumber.Match(raw) {
		return string(raw), true
	}
	if raw[0] != '"' || json.Unmarshal(raw, &id) != nil {
		return "", false
	}
	odd := func(r rune) bool { return r < 0x20 || r == 0x7f || r == utf8.RuneError }
	return id, id != "" && len(id) <= maxUserID && id == strings.Trim(id, " ") && !strings.ContainsFunc(id, odd)
}
