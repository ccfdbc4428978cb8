package console

import (
	"mime/multipart"
	"net/http"

	"github.com/tagged-urls/caddy-tagged-urls/caddymodule/links"
	"github.com/tagged-urls/caddy-tagged-urls/tagging"
)

// maxCampaign is how large a campaign's file may be, in bytes.
const maxCampaign = 64 << 20

// postCampaign answers a file's rows with their links.
func (p *pages) postCampaign(w http.ResponseWriter, r *http.Request) error {
	form := readBuildForm(r)
	why := p.campaign(w, r, form)
	if why == nil {
		return nil
	}
	if scripted(r) {
		return failure{http.StatusBadRequest, sentence(why)}
	}
	return p.show(w, r, http.StatusBadRequest, view{Part: "build", Build: form, Campaign: sentence(why)})
}

// campaign writes the rows. Its error means that nothing was written.
func (p *pages) campaign(w http.ResponseWriter, r *http.Request, form buildForm) error {
	file, head, err := r.FormFile("csv")
	if err != nil {
		return failure{text: "choose a CSV file"}
	}
	defer file.Close()
	return p.maker(r, form, func(m *links.Maker) error {
		m.Asked = tagging.Tags{Event: form.Event, Properties: form.Properties}
		rows := links.Rows{Maker: m, File: fileName(head)}
		out := &download{ResponseWriter: w}
		if err := rows.Make(file, out); !out.begun {
			return err
		}
		return nil // else the browser is gone, and the rest with it
	})
}

func fileName(head *multipart.FileHeader) string {
	if head.Filename == "" {
		return "the file"
	}
	return head.Filename
}

// download is a response with a file, which begins when there is something to
// write.
type download struct {
	http.ResponseWriter
	begun bool
}

func (d *download) Write(data []byte) (int, error) {
	if !d.begun {
		d.begun = true
		d.Header().Set("Content-Type", "text/csv; charset=utf-8")
		d.Header().Set("Content-Disposition", `attachment; filename="links.csv"`)
	}
	return d.ResponseWriter.Write(data)
}
