package packaging

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// checkout makes a repository with what the release script reads, and a go
// command that makes a stub of Caddy, of the version that its commit has.
func checkout(t *testing.T) (dir string, env []string) {
	t.Helper()
	dir, bin := filepath.Join(t.TempDir(), "checkout"), t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "packaging"), os.DirFS(script(""))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "docs"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"LICENSE", "README.md", "Caddyfile.example", "docs/page.md"} {
		harness.WriteFile(t, filepath.Join(dir, name), name)
	}
	harness.WriteFile(t, filepath.Join(dir, "CHANGELOG.md"), "# Changelog\n\n## [Unreleased]\n\n- Soon\n\n## [1.2.3] - 2026-11-27\n\n### Added\n\n- New ([page](docs/page.md))\n\n## [1.2.2] - 2026-01-01\n\n- Old\n\n[Unreleased]: https://example.org\n")
	for name, text := range map[string]string{"lintian": "#!/bin/sh\n", "gh": "#!/bin/sh\necho \"$@\"\n", "go": `#!/bin/sh -e
case "$1 $2" in
"build "*)
	while [ "$1" != -o ]; do shift; done
	mkdir -p "${2%/*}"
	cat >"$2" <<'END'
#!/bin/sh
if [ "$1" = manpage ]; then mkdir -p "$3"; echo caddy >"$3/caddy.8"; else echo "$@"; fi
END
	chmod +x "$2";;
"version -m") printf '\tmod\texample.org/caddy\t%s\t\n' "$STAMPED";;
"env GOHOSTARCH") echo amd64;;
"list -m") echo v2.11.9;;
"-C packaging") # the list of components, and the image
	while [ $# -gt 1 ]; do
		case "$1" in -output) cat >"$2" <<'END'
{
  "metadata": {
    "tools": [
      {
        "name": "a tool",
        "hashes": [
          {
            "content": "of this machine"
          }
        ],
        "externalReferences": []
      }
    ]
  },
  "components": [
    {
      "hashes": [
        {
          "content": "of a module"
        }
      ],
      "name": "a module"
    }
  ]
}
END
		;; -to) mkdir "$2"; echo '{}' >"$2/index.json";; esac
		shift
	done;;
*) echo "go $*" >&2; exit 1;;
esac
`} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, nil, "git", "-C", dir, "init", "--quiet")
	run(t, nil, "git", "-C", dir, "add", ".")
	run(t, nil, "git", "-C", dir, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", "a")
	return dir, append(os.Environ(), "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

// TestRelease makes a release of stubs: which files there are, and what the
// notes and sums say.
func TestRelease(t *testing.T) {
	t.Parallel()
	harness.OnLinux(t)
	harness.Need(t, "dpkg-deb")
	dir, env := checkout(t)
	release := func(stamped string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "packaging/release"), args...)
		cmd.Env = append(env, "STAMPED="+stamped)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for args, says := range map[string]string{
		"1.2.3":       "is no version such as v1.2.3",
		"v1.2.3; rm":  "is no version such as v1.2.3",
		"v1.2.4":      `CHANGELOG.md has no section "## [1.2.4]"`,
		"v1.2.2-rc.1": `CHANGELOG.md has no section`,
		"v1.2.2":      "this isn't v1.2.2: check out its tag",
	} {
		if out, err := release("v1.2.2+dirty", args); err == nil || !strings.Contains(out, says) {
			t.Errorf("%s: %v, and not %q:\n%s", args, err, says, out)
		}
	}

	if out, err := release("v1.2.3", "v1.2.3"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dist := filepath.Join(dir, "dist")
	want := []string{"SHA256SUMS", "caddy-tagged-urls_1.2.3_image.tar", "image", "notes.md",
		"caddy_2.11.9+taggedurls1.2.3-1_amd64.deb", "caddy_2.11.9+taggedurls1.2.3-1_arm64.deb"}
	for _, platform := range []string{"linux_amd64", "linux_arm64", "darwin_arm64", "windows_amd64"} {
		for _, name := range []string{"caddy-tagged-urls", "caddy-tagged-urls-nats"} {
			want = append(want, name+"_1.2.3_"+platform+".tar.gz", name+"_1.2.3_"+platform+".cdx.json")
		}
	}
	var got []string
	entries, err := os.ReadDir(dist)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("the release has\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
	notes, err := os.ReadFile(filepath.Join(dist, "notes.md"))
	if err != nil || strings.TrimSpace(string(notes)) != "### Added\n\n- New ([page](https://github.com/tagged-urls/caddy-tagged-urls/blob/v1.2.3/docs/page.md))" {
		t.Errorf("the notes: %v\n%s", err, notes)
	}
	sums, err := os.ReadFile(filepath.Join(dist, "SHA256SUMS"))
	if err != nil || strings.Count(string(sums), "\n") != len(want)-3 {
		t.Errorf("the sums: %v\n%s", err, sums)
	}
	run(t, nil, "sh", "-c", `cd "$1" && sha256sum --check --quiet SHA256SUMS`, "sh", dist)
	// What the workflow publishes.
	text, err := os.ReadFile(filepath.Join(harness.Root(), ".github/workflows/release.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var workflow struct {
		Jobs map[string]struct{ Steps []struct{ Run string } }
	}
	if err := yaml.Unmarshal(text, &workflow); err != nil {
		t.Fatal(err)
	}
	var published string
	for _, step := range workflow.Jobs["release"].Steps {
		if strings.HasPrefix(step.Run, "gh ") {
			published = run(t, append(env, "GITHUB_REF_NAME=v1.2.3"), "sh", "-ec", `cd "$1"; eval "$2"`, "sh", dir, step.Run)
		}
	}
	for _, name := range want {
		if !strings.Contains(published, "dist/"+name) && name != "image" {
			t.Errorf("the workflow doesn't publish %s: %s", name, published)
		}
	}
	var components struct {
		Metadata   struct{ Tools []map[string]any }
		Components []map[string]any
	}
	list, err := os.ReadFile(filepath.Join(dist, "caddy-tagged-urls_1.2.3_linux_arm64.cdx.json"))
	if err != nil || json.Unmarshal(list, &components) != nil || len(components.Metadata.Tools) != 1 || components.Metadata.Tools[0]["hashes"] != nil ||
		len(components.Components) != 1 || components.Components[0]["hashes"] == nil {
		t.Errorf("the list of components isn't JSON, or has hashes of the machine's, or lacks the modules': %v\n%s", err, list)
	}
	inside := run(t, nil, "tar", "-tzf", filepath.Join(dist, "caddy-tagged-urls-nats_1.2.3_windows_amd64.tar.gz"))
	for _, name := range []string{"caddy.exe", "LICENSE", "README.md", "CHANGELOG.md", "Caddyfile.example", "docs/page.md"} {
		if !strings.Contains(inside, "caddy-tagged-urls-nats_1.2.3_windows_amd64/"+name+"\n") {
			t.Errorf("an archive lacks %s:\n%s", name, inside)
		}
	}

	// A snapshot needs no tag.
	if out, err := release("v0.0.0-20261127000000-0123456789ab+dirty"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if found, _ := filepath.Glob(filepath.Join(dist, "caddy_2.11.9+taggedurls0.0.0~*-1_arm64.deb")); len(found) != 1 {
		t.Error("a snapshot's package isn't older than the release that comes")
	}
	if notes, _ := os.ReadFile(filepath.Join(dist, "notes.md")); strings.TrimSpace(string(notes)) != "- Soon" {
		t.Errorf("a snapshot's notes: %s", notes)
	}
}
