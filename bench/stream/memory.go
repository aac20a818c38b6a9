//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/freshwire/freshwire/bench/internal/rig"
)

// processes returns a server's process and its workers.
func processes(pid int) ([]int, error) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, err
	}
	all := []int{pid}
	for _, child := range strings.Fields(string(children)) {
		n, err := strconv.Atoi(child)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// processorTime is what a server and its workers have used.
func processorTime(pid int) (total time.Duration, err error) {
	pids, err := processes(pid)
	for _, p := range pids {
		used, err := rig.ProcessorTime(p)
		if err != nil {
			return 0, err
		}
		total += used
	}
	return total, err
}

// memory is the proportional share of memory of a server and its workers, in bytes.
func memory(pid int) (total int64, err error) {
	pids, err := processes(pid)
	for _, p := range pids {
		n, err := pss(p)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, err
}

func pss(pid int) (int64, error) {
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(rollup) {
		if amount, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(amount)), "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("process %d: no Pss in smaps_rollup", pid)
}

// watchMemory looks once a second, until the returned function is called: it
// returns the most that was seen.
func watchMemory(pid int) (peak func() int64) {
	end := make(chan struct{})
	var most int64
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			if n, err := memory(pid); err == nil {
				most = max(most, n)
			}
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	})
	return func() int64 { close(end); wg.Wait(); return most }
}
