//go:build !unix

package harness

// Pause skips the test: it can't stop the server's process here without ending
// it.
func (s *NATS) Pause() {
	s.t.Helper()
	s.t.Skip("only Unix can stop a process without ending it")
}

// Resume ends a pause.
func (s *NATS) Resume() {}
