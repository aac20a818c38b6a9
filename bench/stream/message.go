//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"
)

// message is what is published: each publisher counts its own, so that a
// subscriber knows what it missed whatever the order between publishers.
type message struct {
	publisher int // less than maxPublishers
	seq       int
	sent      time.Time // just before it was published
}

const maxPublishers = 4

// A message is JSON of messageSize bytes: digits at fixed places, then padding.
const (
	messageSize   = 100
	messagePrefix = `{"m":"`
	messageDigits = 1 + 8 + 16 // publisher, seq, sent in nanoseconds
)

var messagePadding = strings.Repeat("x", messageSize-len(messagePrefix)-messageDigits-len(`","x":""}`))

func (m message) encode() []byte {
	return fmt.Appendf(make([]byte, 0, messageSize), `%s%01x%08x%016x","x":"%s"}`, messagePrefix, m.publisher, m.seq, m.sent.UnixNano(), messagePadding)
}

// decodeMessage reads what encode wrote. ok is false for anything else.
func decodeMessage(b []byte) (publisher, seq int, sent int64, ok bool) {
	if len(b) != messageSize || string(b[:len(messagePrefix)]) != messagePrefix {
		return 0, 0, 0, false
	}
	b = b[len(messagePrefix) : len(messagePrefix)+messageDigits]
	p, ok1 := hexNumber(b[:1])
	n, ok2 := hexNumber(b[1:9])
	t, ok3 := hexNumber(b[9:])
	return int(p), int(n), t, ok1 && ok2 && ok3 && p < maxPublishers
}

func hexNumber(b []byte) (n int64, ok bool) {
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			n = n<<4 | int64(c-'0')
		case 'a' <= c && c <= 'f':
			n = n<<4 | int64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return n, true
}
