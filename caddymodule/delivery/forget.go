package delivery

// Forgetter is a [Queue] that can remove what it holds of a person.
type Forgetter interface {
	// Forget deletes for good what waits, and the dead letters, that match. It
	// doesn't touch what is leased. Then it erases that, and what was settled
	// before, from its storage, as far as the storage lets it.
	Forget(match func(*Record) bool) (Forgotten, error)
}

// Forgotten counts records of a person.
type Forgotten struct {
	// Waiting and Dead were deleted.
	Waiting int `json:"waiting"`
	Dead    int `json:"dead_letters"`
	// Underway are leased: they are being delivered.
	Underway int `json:"under_way"`
}

// Add adds another queue's counts.
func (f *Forgotten) Add(other Forgotten) {
	f.Waiting, f.Dead, f.Underway = f.Waiting+other.Waiting, f.Dead+other.Dead, f.Underway+other.Underway
}
