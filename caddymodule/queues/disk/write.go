package disk

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/delivery"
)

// takeOverDelay is how long after a transaction puts go into the journal, and
// what is in it waits for the next one.
var takeOverDelay = 100 * time.Millisecond

// journalRetry is how long to wait after the journal couldn't be written.
const journalRetry = time.Minute

// write makes a batch durable, and tells everybody the outcome: in the journal
// if there are only puts in it and the last transaction was just now, else in
// a transaction.
func (q *openQueue) write(batch []work) {
	limits := limitsFor(q.maxSize.Load())
	if !q.mayJournal(batch, limits) {
		q.takeOver(batch)
		return
	}
	f := new(frame)
	waiting := 0 // bytes that the queue's file will have to take
	for _, other := range q.journaled {
		waiting += other.size
	}
	for _, w := range batch {
		p := w.(*put)
		switch {
		case !p.start():
		case q.used+int64(waiting+f.size+p.size) > limits.use:
			p.err = delivery.ErrFull
		default:
			for _, e := range p.entries {
				f.add(e)
			}
		}
	}
	if len(f.entries) > 0 {
		if err := q.journal.append(f); err != nil {
			q.noJournal(err)
			q.takeOver(batch)
			return
		}
		q.mu.Lock()
		q.journaled = append(q.journaled, f)
		q.mu.Unlock()
	}
	for _, w := range batch {
		w.finish(q, nil)
	}
}

// mayJournal reports whether a batch is for the journal, which is made if there
// is none yet.
func (q *openQueue) mayJournal(batch []work, limits limits) bool {
	if now := time.Now(); q.db == nil || !now.Before(q.takeOverAt) || now.Before(q.journal.retryAt) {
		return false
	}
	size := int64(frameHeader)
	for _, w := range batch {
		p, ok := w.(*put)
		if !ok {
			return false
		}
		for _, e := range p.entries {
			size += int64(len(e.destination) + len(e.stored) + 2*binary.MaxVarintLen32)
		}
	}
	if q.journal.file != nil {
		return q.journal.end+size <= int64(limits.journal)
	}
	if size > int64(limits.journal) {
		return false
	}
	err := q.journal.create(q.path+journalSuffix, limits.journal)
	switch {
	case err == nil:
		q.found(content{})
	case errors.Is(err, fs.ErrExist): // it couldn't be read when the queue was opened
		q.openJournal()
	}
	if q.journal.file == nil {
		q.noJournal(err)
	}
	return err == nil
}

// noJournal says why there is none, once.
func (q *openQueue) noJournal(err error) {
	q.journal.retryAt = time.Now().Add(journalRetry)
	if q.journal.told {
		return
	}
	q.journal.told = true
	q.logger.Warn("the queue's journal can't be written, so with many visitors at once recording costs more; nothing is lost",
		zap.String("path", q.path+journalSuffix), zap.Error(hint(err)))
}

// takeOver writes a batch in a transaction that takes over the journal.
func (q *openQueue) takeOver(batch []work) {
	all := make([]work, 0, len(q.journaled)+len(batch))
	for _, f := range q.journaled {
		all = append(all, f)
	}
	q.commit(append(all, batch...))
	var left []*frame
	for _, f := range q.journaled {
		if !f.stored {
			left = append(left, f)
		}
	}
	delay := takeOverDelay
	if len(left) == 0 {
		q.journal.restart()
	} else {
		delay = retryDelay
		for _, f := range q.journaled {
			if f.stored {
				q.journal.forget(f)
			}
		}
	}
	q.takeOverAt = time.Now().Add(delay)
	q.mu.Lock()
	q.journaled = left
	q.mu.Unlock()
}

// endJournal is the end of the queue: what can't be taken over stays for when
// it is next opened.
func (q *openQueue) endJournal() {
	if len(q.journaled) > 0 {
		q.takeOver(nil)
	}
	if len(q.journaled) > 0 {
		q.logger.Warn("the queue's file can't be written: what was recorded last is in its journal, and delivered when the queue is next opened",
			zap.String("path", q.path+journalSuffix))
		q.journal.close()
		return
	}
	q.journal.remove(q.path + journalSuffix)
}

// openJournal reads what a crash has left in the journal. It is called when the
// queue's file has been opened, whose lock is that of the journal too.
func (q *openQueue) openJournal() {
	j := &q.journal
	j.close()
	path := q.path + journalSuffix
	b, err := readJournal(path)
	var c content
	if err == nil {
		c, err = parseJournal(b)
	}
	if err == nil {
		j.file, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err == nil {
		_ = j.file.Chmod(0o600) // somebody may have copied it
		if !q.found(c) && c.damaged {
			aside := nameAside(path)
			q.logger.Error("a part of the queue's journal can't be read; records in that part are not delivered, and some others may be delivered twice",
				zap.String("path", path), zap.String("copied_to", aside), zap.NamedError("copy_error", os.WriteFile(aside, b, 0o600)))
		}
		return
	}
	if errors.Is(err, errDamaged) {
		var aside string
		if aside, err = renameAside(path); err == nil {
			q.logger.Error("the queue's journal is damaged; it was set aside. The records in it are not delivered",
				zap.String("path", path), zap.String("kept_as", aside))
			err = fs.ErrNotExist
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		q.found(content{})
		return
	}
	if !j.told {
		q.logger.Error("the queue's journal can't be read; the records in it aren't delivered until it can",
			zap.String("path", path), zap.Error(hint(err)))
		j.told = true
	}
}

// found goes on with a journal as it was found. It reports whether it's the one
// that was left when the queue's file was lost; then its frames are known, but
// for those that another process has added meanwhile.
func (q *openQueue) found(c content) (known bool) {
	j := &q.journal
	known = c.end > 0 && c.epoch == j.epoch
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, f := range q.journaled {
		if !known || f.at >= c.end {
			f.at = -1
		}
	}
	for _, f := range c.frames {
		if !known || f.at >= j.end {
			q.journaled = append(q.journaled, f)
		}
	}
	j.end, j.dirty = c.end, c.end > 0
	if j.dirty {
		j.epoch = c.epoch
	}
	return known
}
