package tagging

// Reason says in one stable word why something wasn't recorded or not as it
// came. The words are values of a metric's label.
type Reason string

// Why a parameter, or a part of it, wasn't recorded.
const (
	Empty            Reason = "empty"
	EventCut         Reason = "event_cut"
	ValueCut         Reason = "value_cut"
	Control          Reason = "control_character"
	NameTooLong      Reason = "name_too_long"
	ReservedName     Reason = "reserved_name"
	HitTooLong       Reason = "hit_too_long"
	TooMany          Reason = "too_many_properties"
	IdentityTooLong  Reason = "identity_too_long"
	IdentityControl  Reason = "identity_control_character"
	IdentityMerge    Reason = "identity_merge_field"
	IdentityBroken   Reason = "identity_encoding"
	IdentityDebris   Reason = "identity_debris"
	IdentityNobody   Reason = "identity_nobody"
	IdentityEmail    Reason = "identity_email"
	IdentityMisspelt Reason = "identity_misspelt"
	IdentityTooMany  Reason = "too_many_identities"

	IdentityPlain     Reason = "identity_plain"
	IdentityForgotten Reason = "identity_forgotten"
	SealNoKey         Reason = "seal_no_key"
	SealBroken        Reason = "seal_broken"
	SealAlgorithm     Reason = "seal_algorithm"
	SealUnknown       Reason = "seal_unknown"
	SealExpired       Reason = "seal_expired"
	SealClaims        Reason = "seal_claims"

	EventUnlisted    Reason = "event_unlisted"
	PropertyUnlisted Reason = "property_unlisted"
)

// Why a request isn't a visit.
const (
	NotGet      Reason = "not_get"
	Upgrade     Reason = "upgrade"
	RangeInside Reason = "range"
)

var explanations = map[Reason]string{
	Empty:            "It has no name or no value, so it counts as absent.",
	EventCut:         "The event's name is longer than 255 characters; the first 255 are recorded.",
	ValueCut:         "The value is longer than 8 KiB; the first 8 KiB are recorded.",
	Control:          "It has control characters in it, such as a line break; a space is recorded in their place, and at an end nothing.",
	NameTooLong:      "The property's name is longer than 255 characters, so the property is left out.",
	ReservedName:     "Names that begin with an underscore belong to the tracker itself, so the property is left out.",
	HitTooLong:       "All tags of a link together may have 64 KiB; this one didn't fit any more and is left out.",
	TooMany:          "A link may have 100 properties; this one came later and is left out.",
	IdentityTooLong:  "The identity is longer than 255 characters and counts as absent: cut off, it could become another person's.",
	IdentityControl:  "The identity has control characters in it, such as a line break, and counts as absent.",
	IdentityMerge:    "The identity is a merge field that your mailing tool didn't fill in; recorded, it would make one person of all recipients.",
	IdentityBroken:   "The identity isn't valid UTF-8, so parts of it can't be read, and it counts as absent: others would look the same.",
	IdentityDebris:   "The identity has something around it that doesn't belong to it, such as a quotation mark or half of an escape, and what it should be isn't certain; recorded, it would be one more person.",
	IdentityNobody:   "The identity is a word or sign that stands for nobody in particular, or is masked; recorded, it would make one person of all visitors.",
	IdentityEmail:    "The identity is an e-mail address, and this site is configured not to record those.",
	IdentityMisspelt: "It names a person, but not as a tag does, which is kmi=NAME. It is kept from the site and isn't recorded.",
	IdentityTooMany:  "A link that has more than 100 identities names nobody.",
	NotGet:           "Only GET requests are visits.",
	Upgrade:          "A request to switch protocols, such as a WebSocket's, isn't a visit.",
	RangeInside:      "The request is for a later part of a file, so its beginning was the visit.",

	IdentityPlain:     "The identity isn't sealed, and this site takes only those that are (identity_plain drop).",
	IdentityForgotten: "The person asked to be forgotten (caddy tagged-urls forget), so the name is nobody's.",
	SealNoKey:         "The identity is a token, and this site has no identity_key to open it with; recorded, each token would be one more person.",
	SealBroken:        "The sealed identity is damaged, or was cut: it isn't the five parts of a JSON Web Encryption in compact form, or is longer than 1,024 characters.",
	SealAlgorithm:     "The sealed identity asks for something else than alg dir and enc A256GCM, such as compression.",
	SealUnknown:       "No identity_key opens the sealed identity: it was sealed with another key, or has changed since.",
	SealExpired:       "The sealed identity has expired (exp).",
	SealClaims:        "The sealed identity says nobody's name: what is in it is JSON with a text sub, and if it expires, a number exp.",
	EventUnlisted:     "The event isn't among those that this site records (events).",
	PropertyUnlisted:  "The property isn't among those that this site records (properties).",
}

// Explain says the same in a sentence, for people who write links. An unknown
// reason explains itself.
func (r Reason) Explain() string {
	if s, ok := explanations[r]; ok {
		return s
	}
	return string(r)
}
