//go:build race

package e2e

// buildFlags build the program as the tests are built: with the race detector.
var buildFlags = []string{"-race"}
