package testkit

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy passes TCP connections on to a server, and can hold them up: what was
// sent arrives later, whole and in order, as over a slow line.
type Proxy struct {
	Addr string // 127.0.0.1:port

	to     string
	listen net.Listener

	mu    sync.Mutex
	open  chan struct{} // closed while bytes pass
	held  bool
	conns map[net.Conn]struct{}
}

// StartProxy starts a proxy in front of an address, and stops it when the test ends.
func StartProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), to: to, listen: l, open: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(p.open)
	go p.accept()
	t.Cleanup(func() {
		l.Close()
		p.Cut()
		p.Release()
	})
	return p
}

// Hold keeps back what is sent from now on.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held {
		p.held, p.open = true, make(chan struct{})
	}
}

// Release lets pass what was held, and what comes.
func (p *Proxy) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held {
		p.held = false
		close(p.open)
	}
}

// Cut breaks the connections that there are.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) accept() {
	for {
		near, err := p.listen.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.to)
		if err != nil {
			near.Close()
			continue
		}
		go p.pass(near, far)
		go p.pass(far, near)
	}
}

func (p *Proxy) pass(from, to net.Conn) {
	p.mu.Lock()
	p.conns[from] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, from)
		p.mu.Unlock()
		from.Close()
		to.Close()
	}()
	io.Copy(gated{to, p}, from)
}

// gated waits at the proxy's gate before each write.
type gated struct {
	io.Writer
	p *Proxy
}

func (g gated) Write(b []byte) (int, error) {
	g.p.mu.Lock()
	open := g.p.open
	g.p.mu.Unlock()
	<-open
	return g.Writer.Write(b)
}
