package scanners

import (
	"bytes"
	"encoding/binary"
	"errors"
	"time"
)

// message is what nodes tell each other: hashes under the key that they share.
type message struct {
	Version, Kind     uint8
	Multiplexed, Drop bool
	Decoy             bool
	Node              uint64
	Record            Key
	At                int64 // Unix nanoseconds
	Person, Link      uint64
	Client, Conn      uint64
	Cookie            uint64
	Links, People     limit
}

type limit struct {
	N      uint32
	Window int64
}

const (
	wireVersion = 1

	kindNote     = 1
	kindAnswered = 2
	kindReturned = 3
	kindDecoy    = 4
)

// clocks is how far apart the clocks of nodes may be for a time to count.
const clocks = 2 * time.Second

// Tell has all that this memory is told also told to other nodes. It mustn't
// block. They give it to [Memory.Hear].
func (m *Memory) Tell(tell func([]byte)) { m.tell.Store(&tell) }

func (m *Memory) announce(msg message, at time.Time, r Rules) {
	tell := m.tell.Load()
	if tell == nil {
		return
	}
	msg.Version, msg.Node, msg.At, msg.Drop, msg.Decoy = wireVersion, m.node, at.UnixNano(), r.Drop, r.Decoy
	msg.Links = limit{uint32(r.Links.N), int64(r.Links.Window)}
	msg.People = limit{uint32(r.People.N), int64(r.People.Window)}
	b, _ := binary.Append(make([]byte, 0, 128), binary.BigEndian, &msg) // it has a fixed size
	(*tell)(b)
}

var errMessage = errors.New("not a message of this version")

// Hear is told what another node was. What this one has told it ignores.
func (m *Memory) Hear(now time.Time, data []byte) error {
	var msg message
	if len(data) != binary.Size(msg) || binary.Read(bytes.NewReader(data), binary.BigEndian, &msg) != nil || msg.Version != wireVersion {
		return errMessage
	}
	if msg.Node == m.node {
		return nil
	}
	at := now
	if ago := now.Sub(time.Unix(0, msg.At)); ago.Abs() < clocks {
		at = now.Add(-ago)
	}
	r := Rules{
		Links:  Limit{int(msg.Links.N), time.Duration(msg.Links.Window)},
		People: Limit{int(msg.People.N), time.Duration(msg.People.Window)},
		Decoy:  msg.Decoy, Drop: msg.Drop,
	}
	v := Visit{Record: msg.Record, At: at, Person: msg.Person, Link: msg.Link, Client: msg.Client, Conn: msg.Conn, Multiplexed: msg.Multiplexed}
	if wait := r.Wait(); wait < 0 || wait > MaxWait {
		return errMessage
	}
	switch msg.Kind {
	case kindNote:
		m.note(now, v, r)
	case kindAnswered:
		m.answered(now, at, msg.Record, msg.Cookie)
	case kindReturned:
		m.returned(now, v, msg.Cookie, r)
	case kindDecoy:
		m.opened(now, msg.Client)
	default:
		return errMessage
	}
	return nil
}
