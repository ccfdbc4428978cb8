package delivery

import (
	"encoding/hex"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// Records as version 1 of the format has stored them.
var version1 = map[string]Record{
	// An event of a name, with all there is.
	"01010102030405060708090a0b0c0d0e0f10a4eed3a4f3670b6578616d706c652e636f6d0a6a6f686e2e736d6974680c436c69636b6564204c696e6b0b323030313a6462383a3a31074d6f7a696c6c6103747261010d4c696e6b206c6f636174696f6e03746f70": {
		Kind: Event, Site: "example.com", Person: "john.smith", Named: true, Name: "Clicked Link",
		ClientIP: "2001:db8::1", UserAgent: "Mozilla", Trace: "tra",
		Properties: []tagging.Property{{Name: "Link location", Value: "top"}},
	},
	// Of an anonymous identity of ours, and of Kissmetrics' library.
	"01010102030405060708090a0b0c0d0e0f10a4eed3a4f367001a414243444546474849324b4c4d4e4f5051525354555657333435014500000000": {
		Kind: Event, Person: "ABCDEFGHI2KLMNOPQRSTUVW345", Name: "E",
	},
	"01020102030405060708090a0b0c0d0e0f10a4eed3a4f367001b392b2f4445464748496a4b4c4d4e4f505152535455565758595a61000000000101610162": {
		Kind: Properties, Person: "9+/DEFGHIjKLMNOPQRSTUVWXYZa",
		Properties: []tagging.Property{{Name: "a", Value: "b"}},
	},
	"01030102030405060708090a0b0c0d0e0f10a4eed3a4f36700036f6c6403626f6200000000": {
		Kind: Alias, Person: "old", Name: "bob",
	},
}

func TestRecordsOfVersion1AreRead(t *testing.T) {
	for stored, want := range version1 {
		data, err := hex.DecodeString(stored)
		if err != nil {
			t.Fatal(err)
		}
		want.ID = [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
		want.Time = time.UnixMilli(1785000000402).UTC()
		got := Record{Anonymous: "of the record before", Named: true}
		if err := got.UnmarshalBinary(data); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s\nread %+v (%v)\nwant %+v", stored, got, err, want)
		}
		for n := range data {
			if err := new(Record).UnmarshalBinary(data[:n]); err == nil {
				t.Errorf("%d of %d bytes make a record", n, len(data))
			}
		}
	}
}

func TestRecordsOfALaterVersion(t *testing.T) {
	if err := new(Record).UnmarshalBinary([]byte{recordVersion + 1}); !errors.Is(err, ErrNewer) {
		t.Errorf("%v, want %v", err, ErrNewer)
	}
}

// FuzzRecord: what is stored is read as it was, and whatever else is read is
// stored as something that is read the same.
func FuzzRecord(f *testing.F) {
	for _, r := range []Record{
		{Kind: Event, Person: "bob", Named: true, Anonymous: "X", Name: "E", Time: time.UnixMilli(-5)},
		{Kind: Alias, Person: "X", Name: "bob", Properties: []tagging.Property{{Name: "a"}, {Name: "a", Value: "\xff"}}},
	} {
		b, _ := r.AppendBinary(nil)
		f.Add(b)
	}
	for stored := range version1 {
		b, _ := hex.DecodeString(stored)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var once, again Record
		if once.UnmarshalBinary(data) != nil {
			return
		}
		b, _ := once.AppendBinary(nil)
		if err := again.UnmarshalBinary(b); err != nil || !reflect.DeepEqual(once, again) {
			t.Errorf("%+v\nbecomes %+v (%v)", once, again, err)
		}
	})
}
