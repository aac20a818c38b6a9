package rig

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// Progress tells every second how far long work is, until the returned
// function is called.
func Progress(what string, done *atomic.Int64, all int) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	begun := time.Now()
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for told := false; ; told = true {
			select {
			case <-tick.C:
				n := done.Load()
				fmt.Fprintf(os.Stderr, "\r%s: %d of %d, %.0f/s ", what, n, all, float64(n)/time.Since(begun).Seconds())
			case <-end:
				if told {
					fmt.Fprintf(os.Stderr, "\r%72s\r", "")
				}
				return
			}
		}
	}()
	return func() { close(end); <-ended }
}
