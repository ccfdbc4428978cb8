package console

import (
	"fmt"
	"net/http"
	"strings"

	"rsc.io/qr"
)

// quietZone is the margin that scanners need, in modules (ISO/IEC 18004).
const quietZone = 4

// postQR answers with the QR code of a text.
func postQR(w http.ResponseWriter, r *http.Request, format string) error {
	code, err := qr.Encode(r.PostForm.Get("text"), qr.M)
	if err != nil { // for want of room: it has less of it for mending damage then
		code, err = qr.Encode(r.PostForm.Get("text"), qr.L)
	}
	if err != nil {
		return failure{http.StatusBadRequest, "The link is too long for a QR code."}
	}
	w.Header().Set("Content-Disposition", `inline; filename="qr`+format+`"`)
	if format == ".png" {
		w.Header().Set("Content-Type", "image/png")
		_, err = w.Write(code.PNG())
	} else {
		w.Header().Set("Content-Type", "image/svg+xml")
		_, err = w.Write([]byte(svg(code)))
	}
	return err
}

// svg draws a code: a rectangle for each run of black modules.
func svg(code *qr.Code) string {
	var b strings.Builder
	size := code.Size + 2*quietZone
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h%[1]dv%[2]dH0z"/><path d="`, size, size)
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			from := x
			for x < code.Size && code.Black(x, y) {
				x++
			}
			if x > from {
				fmt.Fprintf(&b, "M%d %dh%dv1h-%[3]dz", from+quietZone, y+quietZone, x-from)
			}
		}
	}
	b.WriteString(`"/></svg>`)
	return b.String()
}
