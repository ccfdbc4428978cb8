package disk

import (
	"math"
	"runtime"
)

// limits say how far a file may grow, in bytes.
type limits struct {
	use     int64 // pages in use, for another record to be taken
	puts    int   // the file, by a transaction that takes records
	file    int   // the file, by settlements: they need pages before they free any
	spare   int64 // a second file beside it, while that one is rewritten
	dead    int64 // dead letters
	journal int   // the journal
	alloc   int   // the file's steps of growth
}

func limitsFor(maxSize int64) limits {
	maxSize = min(maxSize, math.MaxInt)
	spare := maxSize / 8
	journal := min(maxSize/64, 1<<20)
	file := maxSize - spare - journal
	reserve := min(max(file/8, 512<<10), 64<<20)
	return limits{
		use:     file - reserve,
		puts:    int(file - reserve/2),
		file:    int(file),
		spare:   spare,
		dead:    maxSize / 16,
		journal: int(journal),
		alloc:   int(min(max(maxSize/64, 32<<10), 16<<20)),
	}
}

const (
	// fillStep is how many bytes are filled at once, and fillAhead how many
	// must be left of them when a transaction begins.
	fillStep  = 256 << 10
	fillAhead = 128 << 10
)

var zeros [fillStep]byte

// fillAhead writes zeros where the file will grow next. To sync a page that the
// file system has yet to allocate takes several writes, one after the other,
// and visitors wait for them.
func (q *openQueue) fillAhead() {
	if q.db == nil || q.high < 0 || runtime.GOOS == "windows" { // where a file has no holes
		return
	}
	from := max(q.filled, q.high)
	if from-q.high >= fillAhead || from+fillStep > int64(limitsFor(q.maxSize.Load()).puts) {
		return
	}
	q.filled = from + fillStep
	_, _ = q.file.WriteAt(zeros[:], from) // what fails here will fail where it matters
}
