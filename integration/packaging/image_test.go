package packaging

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// descriptor points to a part of an OCI image.
// https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md
type descriptor struct {
	MediaType, Digest string
	Size              int
	Platform          struct{ OS, Architecture string }
}

// imageConfig is what an engine runs an image by.
type imageConfig struct {
	OS, Architecture string
	Config           struct {
		User                 string
		Entrypoint, Cmd, Env []string
		Volumes              map[string]struct{}
		Healthcheck          struct{ Test []string }
	}
}

// layout is a directory with an OCI image.
type layout string

// blob returns a part of the image, which must be what its descriptor says.
func (l layout) blob(t *testing.T, d descriptor) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(string(l), "blobs", strings.Replace(d.Digest, ":", "/", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(data); len(data) != d.Size || "sha256:"+hex.EncodeToString(sum[:]) != d.Digest {
		t.Errorf("%s isn't what its digest says", d.Digest)
	}
	return data
}

func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
}

// open returns the layers and the configuration of this machine's image.
func (l layout) open(t *testing.T) (layers []descriptor, config imageConfig) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(string(l), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var top, index struct{ Manifests []descriptor }
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	if decode(t, data, &top); len(top.Manifests) != 1 {
		t.Fatalf("engines want one image by its name: %s", data)
	}
	if decode(t, l.blob(t, top.Manifests[0]), &index); len(index.Manifests) != 2 {
		t.Fatalf("not two platforms: %v", index)
	}
	for _, m := range index.Manifests {
		decode(t, l.blob(t, m), &manifest)
		decode(t, l.blob(t, manifest.Config), &config)
		if config.OS != m.Platform.OS || config.Architecture != m.Platform.Architecture {
			t.Errorf("the image of %v is for %s/%s", m.Platform, config.OS, config.Architecture)
		}
		if config.Architecture == runtime.GOARCH {
			return manifest.Layers, config
		}
	}
	t.Fatal("no image is for this machine")
	return
}

// unpack lays the layers into a directory, as an engine does.
func (l layout) unpack(t *testing.T, layers []descriptor, root string) {
	t.Helper()
	for _, layer := range layers {
		zipped, err := gzip.NewReader(strings.NewReader(string(l.blob(t, layer))))
		if err != nil {
			t.Fatal(err)
		}
		for r := tar.NewReader(zipped); ; {
			header, err := r.Next()
			if err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(root, header.Name)
			if header.Typeflag == tar.TypeDir {
				err = os.MkdirAll(path, 0o700)
			} else {
				var file *os.File
				if file, err = os.Create(path); err == nil {
					_, err = io.Copy(file, r)
					file.Close()
				}
			}
			if err == nil {
				err = os.Chown(path, header.Uid, header.Gid)
			}
			if err == nil {
				err = os.Chmod(path, header.FileInfo().Mode().Perm())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

var library = regexp.MustCompile(`(/\S+) \(0x`)

// TestImage runs the image without an engine: as its user, with its
// environment, on a root that nobody may write to, and over a restart.
func TestImage(t *testing.T) {
	t.Parallel()
	needRoot(t)
	binary, err := harness.Build()
	if err != nil {
		t.Fatal(err)
	}
	builder, err := harness.BuildFrom(script(""), "./image", harness.RaceDetector())
	if err != nil {
		t.Fatal(err)
	}
	// A stub is packed in place of the binary, which is large: with the race
	// detector that takes minutes.
	dir := harness.ShortDir(t)
	stub := filepath.Join(dir, "stub")
	harness.WriteFile(t, stub, "caddy")
	image := layout(filepath.Join(dir, "image"))
	for _, to := range []string{string(image), filepath.Join(dir, "again")} {
		cmd := exec.CommandContext(t.Context(), builder, "-version", "1.2.3", "-created", "1790000000", "-to", to, "amd64="+stub, "arm64="+stub)
		cmd.Dir = script("")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	run(t, nil, "diff", "--recursive", string(image), filepath.Join(dir, "again"))

	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	layers, config := image.open(t)
	image.unpack(t, layers, root)
	packed := filepath.Join(root, "usr/bin/caddy")
	if text, err := os.ReadFile(packed); err != nil || string(text) != "caddy" {
		t.Fatalf("the binary: %v", err)
	}
	if info, err := os.Stat(packed); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the binary: %v, %v", info, err)
	}
	run(t, nil, "cp", "--no-preserve=mode", binary, packed) // into the file that is there
	authorities, err := os.ReadFile(filepath.Join(root, "etc/ssl/certs/ca-certificates.crt"))
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(authorities) || strings.Count(string(authorities), "BEGIN CERTIFICATE") < 100 {
		t.Errorf("the authorities: %v in %d bytes", err, len(authorities))
	}
	// With the race detector Caddy needs the C library, which a release doesn't.
	if libraries, err := exec.Command("ldd", binary).Output(); err == nil {
		for _, m := range library.FindAllStringSubmatch(string(libraries), -1) {
			run(t, nil, "sh", "-ec", `mkdir -p "$2${1%/*}"; cp -L "$1" "$2$1"`, "sh", m[1], root)
		}
	}

	trk := harness.StartTracker(t)
	c := harness.NewCaddy(t, harness.Build, nil)
	harness.WriteFile(t, filepath.Join(root, "etc/caddy/Caddyfile"), fmt.Sprintf(site, c.Port, trk.URL))
	if err := os.Chmod(filepath.Join(root, "etc/caddy/Caddyfile"), 0o644); err != nil {
		t.Fatal(err)
	}
	user, _, _ := strings.Cut(config.Config.User, ":")
	if id, err := strconv.Atoi(user); err != nil || id == 0 {
		t.Errorf("Kubernetes can't see that user %q isn't root", user)
	}
	chroot, err := exec.LookPath("chroot")
	if err != nil {
		t.Fatal(err)
	}
	// contained is a command line that runs in the image.
	contained := func(command []string) []string {
		mount := `
			root=$1; shift
			mount --bind "$root" "$root"
			for volume in $VOLUMES; do mount --bind "$root$volume" "$root$volume"; done
			mount -o remount,ro,bind "$root"
			unset VOLUMES
			exec "$@"`
		return slices.Concat([]string{"env", "-i"}, config.Config.Env, []string{"CADDY_ADMIN=" + c.Admin},
			[]string{"VOLUMES=" + strings.Join(slices.Collect(maps.Keys(config.Config.Volumes)), " ")},
			[]string{"unshare", "--mount", "sh", "-ec", mount, "sh", root, chroot, "--userspec=" + config.Config.User, "--groups=", root}, command)
	}
	healthy := func() bool {
		line := contained(config.Config.Healthcheck.Test[1:]) // after CMD
		return exec.CommandContext(t.Context(), line[0], line[1:]...).Run() == nil
	}
	caddy := contained(append(config.Config.Entrypoint, config.Config.Cmd...))

	trk.Down()
	c.StartAs(nil, caddy...)
	harness.Eventually(t, "Caddy to be healthy, which it is once its queue is open", healthy)
	for i := range 2 {
		if p := harness.NewVisitor(t).Open(fmt.Sprintf("%s/?kme=Visited&kmi=visitor%d", c.URL, i)); p.Body != "page" {
			t.Errorf("%d %s", p.Status, p.Body)
		}
	}
	c.Stop()
	if healthy() {
		t.Error("no Caddy counts as healthy")
	}
	c.StartAs(nil, caddy...)
	trk.Up()
	trk.Expect(t, c, []string{"visitor0", "visitor1"}, "/e person=visitor0 name=Visited", "/e person=visitor1 name=Visited")
	for _, trouble := range []string{"read-only file system", "permission denied"} {
		if c.Logged(trouble) {
			t.Errorf("Caddy met a %s", trouble)
		}
	}
}
