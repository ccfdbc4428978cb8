package console

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/explain"
	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/links"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// mergeField is what a mail program fills in.
type mergeField struct{ Program, Text string }

// mergeFields are the recipient's address as common mail programs write it.
// Sources: their own documentation of merge tags.
var mergeFields = []mergeField{
	{"ActiveCampaign", "%EMAIL%"},
	{"Brevo", "{{ contact.EMAIL }}"},
	{"Campaign Monitor", "[email]"},
	{"Constant Contact", "[[EMAILADDRESS]]"},
	{"Customer.io", "{{customer.email}}"},
	{"HubSpot", "{{ contact.email }}"},
	{"Iterable", "{{email}}"},
	{"Kit", "{{ subscriber.email_address }}"},
	{"Klaviyo", "{{ email|urlencode }}"},
	{"Mailchimp", "*|URL:EMAIL|*"},
	{"MailerLite", "{$email}"},
	{"Mailgun", "%recipient.email%"},
	{"Marketo", "{{lead.Email Address:default=}}"},
	{"Pardot", "%%email%%"},
	{"Salesforce", "%%=URLEncode(emailaddr)=%%"},
	{"SendGrid", "{{email}}"},
}

// buildForm is what the form for building a link says.
type buildForm struct {
	URL, Event, Identity, Field string
	Seal                        bool
	Properties                  []tagging.Property
}

// formProperties is how many properties the form has a place for, at least.
const formProperties = 3

func (f buildForm) padded() buildForm {
	for len(f.Properties) < formProperties {
		f.Properties = append(f.Properties, tagging.Property{})
	}
	return f
}

func readBuildForm(r *http.Request) buildForm {
	f := buildForm{
		URL: strings.TrimSpace(r.PostForm.Get("url")), Event: r.PostForm.Get("event"), Identity: r.PostForm.Get("identity"),
		Field: r.PostForm.Get("field"), Seal: r.PostForm.Get("seal") != "",
	}
	values := r.PostForm["value"]
	for i, name := range r.PostForm["name"] {
		if i < len(values) && (name != "" || values[i] != "") {
			f.Properties = append(f.Properties, tagging.Property{Name: name, Value: values[i]})
		}
	}
	return f
}

// built is a link, or what is in its way.
type built struct {
	Link     string   `json:"link,omitempty"`
	Problems []string `json:"problems,omitempty"`
}

// problems lists joined errors, a sentence each.
func problems(err error) (all []string) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			all = append(all, sentence(err))
		}
		return all
	}
	return []string{sentence(err)}
}

func (p *pages) postBuild(w http.ResponseWriter, r *http.Request) error {
	form := readBuildForm(r)
	var answer built
	asked := tagging.Tags{Event: form.Event, Identity: cmp.Or(form.Field, form.Identity), Properties: form.Properties}
	err := p.maker(r, form, func(m *links.Maker) (err error) {
		answer.Link, err = m.Link(asked)
		return err
	})
	if err != nil {
		// A link that the site would read otherwise isn't one to be sent.
		answer = built{Problems: problems(err)}
	}
	if scripted(r) {
		writeJSON(w, http.StatusOK, answer)
		return nil
	}
	return p.show(w, r, http.StatusOK, view{Part: "build", Build: form, Built: &answer})
}

// maker calls f with what makes links to the form's page, by the rules of its
// site.
func (p *pages) maker(r *http.Request, form buildForm, f func(*links.Maker) error) error {
	if form.URL == "" {
		return errors.New("which page is the link to lead to? Give its address")
	}
	if err := links.CheckAddress(form.URL); err != nil {
		return err
	}
	visit, err := explain.NewVisit(form.URL, http.MethodGet, nil, nil)
	if err != nil {
		return err
	}
	config, err := p.config(r)
	if err != nil {
		return err
	}
	m := links.Maker{Address: form.URL, Opened: true}
	err = p.trial.use(config, func(run *explain.DryRun) (err error) {
		m.Site, err = run.Site("the running configuration", visit)
		return err
	})
	if err != nil {
		return err
	}
	if form.Seal {
		if len(m.Site.Keys) == 0 {
			return fmt.Errorf("the site of %s has no identity_key, so identities can't be sealed there", form.URL)
		}
		m.Key = m.Site.Keys[0]
	}
	return f(&m)
}
