package disk

import "math"

// limits say how far a file may grow, in bytes.
type limits struct {
	use   int64 // pages in use, for another record to be taken
	puts  int   // the file, by a transaction that takes records
	file  int   // the file, by settlements: they need pages before they free any
	spare int64 // a second file beside it, while that one is rewritten
	dead  int64 // dead letters
	alloc int   // the file's steps of growth
}

func limitsFor(maxSize int64) limits {
	maxSize = min(maxSize, math.MaxInt)
	spare := maxSize / 8
	file := maxSize - spare
	reserve := min(max(file/8, 512<<10), 64<<20)
	return limits{
		use:   file - reserve,
		puts:  int(file - reserve/2),
		file:  int(file),
		spare: spare,
		dead:  maxSize / 16,
		alloc: int(min(max(maxSize/64, 32<<10), 16<<20)),
	}
}
