//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench/stream: needs Linux: it pins processes to cores, and reads what they use from /proc")
	os.Exit(1)
}
