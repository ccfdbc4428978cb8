// Command image writes a container image of Caddy as an OCI layout, without an
// engine: nothing but the binary, the certificates of public authorities, and a
// configuration to begin with. The same binaries give the same digest.
//
//	image -version 1.2.3 -created <unix time> -to <directory> amd64=<binary> arm64=<binary>
package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is whom Caddy runs as. A number, so that Kubernetes can see that it isn't
// root.
const user = 65532

// name is where the image is published.
const name = "ghcr.io/tagged-urls/caddy-tagged-urls"

func main() {
	version := flag.String("version", "", "the image's `version`")
	created := flag.Int64("created", 0, "when it was made, in `seconds` since 1970")
	to := flag.String("to", "", "the `directory` to write; it mustn't exist")
	flag.Parse()
	if err := run(*to, *version, time.Unix(*created, 0).UTC(), flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// run writes the layout of one image for each architecture=binary.
func run(to, version string, created time.Time, binaries []string) error {
	if _, err := os.Stat(to); to == "" || err == nil {
		return fmt.Errorf("-to %q: name a directory that doesn't exist", to)
	}
	if len(binaries) == 0 {
		return fmt.Errorf("give at least one architecture=binary")
	}
	base, err := baseLayer(created)
	if err != nil {
		return err
	}
	// Docker and Podman choose from one index of images.
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range binaries {
		arch, path, found := strings.Cut(b, "=")
		if !found {
			return fmt.Errorf("%q isn't architecture=binary", b)
		}
		image, err := caddyImage(arch, path, version, created, base)
		if err != nil {
			return fmt.Errorf("%s: %w", b, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	written, err := layout.Write(to, empty.Index)
	if err != nil {
		return err
	}
	// What Podman calls the image when it loads the layout.
	return written.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name + ":" + version}))
}

func caddyImage(arch, path, version string, created time.Time, base v1.Layer) (v1.Image, error) {
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	program, err := layer([]entry{dir("usr/"), dir("usr/bin/"), {name: "usr/bin/caddy", mode: 0o755, content: binary}}, created)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if image, err = mutate.AppendLayers(image, base, program); err != nil {
		return nil, err
	}
	return mutate.ConfigFile(image, withConfig(image, arch, version, created))
}

// withConfig says how the image is run.
func withConfig(image v1.Image, arch, version string, created time.Time) *v1.ConfigFile {
	made, err := image.ConfigFile()
	if err != nil {
		panic(err) // it's in memory
	}
	file := made.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", arch, v1.Time{Time: created}
	file.History = nil
	file.Config = v1.Config{
		User:       fmt.Sprintf("%d:%d", user, user),
		Entrypoint: []string{"/usr/bin/caddy"},
		Cmd:        []string{"run", "--config", "/etc/caddy/Caddyfile"},
		WorkingDir: "/data",
		// Certificates and the queue are in /data/caddy. The port is one that
		// needs no privilege.
		Env:          []string{"PATH=/usr/bin", "HOME=/data", "XDG_DATA_HOME=/data", "XDG_CONFIG_HOME=/config", "PORT=8080"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "8443/tcp": {}, "8443/udp": {}},
		Volumes:      map[string]struct{}{"/data": {}, "/config": {}},
		// Caddy answers. Whether hits are recorded doesn't count: nobody should
		// restart a site for that.
		Healthcheck: &v1.HealthConfig{
			Test:     []string{"CMD", "/usr/bin/caddy", "tagged-urls", "status"},
			Interval: 30 * time.Second, Timeout: 10 * time.Second, StartPeriod: 10 * time.Second, Retries: 3,
		},
		Labels: map[string]string{
			"org.opencontainers.image.title":    "Caddy with Tagged URLs",
			"org.opencontainers.image.source":   "https://github.com/tagged-urls/caddy-tagged-urls",
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.version":  version,
		},
	}
	return file
}

// baseLayer has all but the binary, and is the same for each architecture.
func baseLayer(created time.Time) (v1.Layer, error) {
	var roots bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil { // a file can't express that an authority is trusted in part
			_ = pem.Encode(&roots, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
		}
	}
	entries := []entry{
		{name: "config/", mode: 0o700, owner: user},
		{name: "data/", mode: 0o700, owner: user},
		dir("etc/"), dir("etc/caddy/"), dir("etc/ssl/"), dir("etc/ssl/certs/"),
		{name: "etc/passwd", mode: 0o644, content: fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\ncaddy:x:%d:%[1]d:caddy:/data:/sbin/nologin\n", user)},
		{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, content: roots.Bytes()},
		{name: "tmp/", mode: 0o1777},
		dir("usr/"), dir("usr/share/"), dir("usr/share/caddy/"),
	}
	for from, name := range map[string]string{
		"debian/Caddyfile": "etc/caddy/Caddyfile", "debian/index.html": "usr/share/caddy/index.html",
	} {
		content, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{name: name, mode: 0o644, content: content})
	}
	return layer(entries, created)
}

// entry is a file of a layer, or a directory, whose name ends with a slash.
type entry struct {
	name    string
	mode    int64
	owner   int
	content []byte
}

func dir(name string) entry { return entry{name: name, mode: 0o755} }

// layer packs files in the order of their names, with the same time.
func layer(entries []entry, at time.Time) (v1.Layer, error) {
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for _, e := range entries {
		header := &tar.Header{
			Name: e.name, Mode: e.mode, Uid: e.owner, Gid: e.owner, Size: int64(len(e.content)), ModTime: at, Typeflag: tar.TypeReg,
		}
		if strings.HasSuffix(e.name, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer))
}
