//go:build unix

package harness

import "syscall"

// Pause stops the server's process without ending it.
func (s *NATS) Pause() {
	s.t.Helper()
	s.t.Cleanup(s.Resume) // else it couldn't be ended
	s.send(syscall.SIGSTOP)
}

// Resume ends a pause.
func (s *NATS) Resume() { s.send(syscall.SIGCONT) }
