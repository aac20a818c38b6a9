package journal

import (
	"os/exec"
	"syscall"
)

// dieWithParent ends a child when the test run is killed.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
