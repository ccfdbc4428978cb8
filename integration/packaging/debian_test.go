package packaging

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// machine is this machine's file system, with its own changes: what is
// installed there is gone with the test.
type machine struct {
	*harness.Process
	root string
	pid  string
}

func startMachine(t *testing.T) *machine {
	t.Helper()
	dir := harness.ShortDir(t)
	m := &machine{root: filepath.Join(dir, "root")}
	pid := filepath.Join(dir, "pid")
	m.Process = harness.StartProcess(t, "the machine", nil, "unshare", "--mount", "sh", "-ec", `
		cd "$1"
		mkdir root changes
		mount -t tmpfs tmpfs changes
		mkdir changes/upper changes/work
		mount -t overlay overlay -o lowerdir=/,upperdir=changes/upper,workdir=changes/work root
		mount --rbind /proc root/proc
		mount --rbind /dev root/dev
		# What the service manager is told is noted.
		mount -t tmpfs tmpfs root/run
		mkdir -p root/run/systemd/system
		for name in systemctl deb-systemd-invoke; do
			rm -f root/usr/bin/$name
			printf '#!/bin/sh\necho "$@" >>/run/told-%s\n' $name >root/usr/bin/$name
			chmod 755 root/usr/bin/$name
		done
		echo $$ >pid.new
		mv pid.new pid
		exec sleep 3600`, "sh", dir)
	harness.Eventually(t, "the machine", func() bool {
		if !m.Running() {
			t.Fatal("the machine can't be made")
		}
		text, _ := os.ReadFile(pid)
		m.pid = strings.TrimSpace(string(text))
		return m.pid != ""
	})
	return m
}

// command is a command line that runs in the machine.
func (m *machine) command(args ...string) []string {
	return append([]string{"nsenter", "--mount", "--target", m.pid, "chroot", m.root}, args...)
}

func (m *machine) run(t *testing.T, args ...string) string {
	t.Helper()
	line := m.command(args...)
	return run(t, []string{"DEBIAN_FRONTEND=noninteractive"}, line[0], line[1:]...)
}

// has tells whether a path exists in the machine.
func (m *machine) has(t *testing.T, path string) bool {
	t.Helper()
	return m.run(t, "sh", "-c", `if [ -e "$1" ]; then echo yes; fi`, "sh", path) != ""
}

// told returns what the service manager was told since it was last asked.
func (m *machine) told(t *testing.T) string {
	t.Helper()
	return m.run(t, "sh", "-c", "cat /run/told-deb-systemd-invoke; rm /run/told-deb-systemd-invoke")
}

// service starts what the installed unit says, as its user, with its
// capabilities, and where it may write.
func (m *machine) service(t *testing.T, c *harness.Caddy) {
	t.Helper()
	unit := m.run(t, "cat", "/usr/lib/systemd/system/caddy.service")
	setting := func(name string) string {
		for line := range strings.Lines(unit) {
			if value, found := strings.CutPrefix(line, name+"="); found {
				return strings.TrimSpace(value)
			}
		}
		t.Fatalf("the unit has no %s=", name)
		return ""
	}
	capability := strings.ToLower(strings.TrimPrefix(setting("AmbientCapabilities"), "CAP_"))
	only := "-all,+" + capability
	command := []string{"nsenter", "--mount", "--target", m.pid, "unshare", "--mount", "sh", "-ec", `
		root=$1; shift
		for dir in var/lib/caddy var/log/caddy tmp; do mount --bind "$root/$dir" "$root/$dir"; done
		mount -o remount,ro,bind "$root"
		exec chroot "$root" "$@"`, "sh", m.root,
		"setpriv", "--reuid", setting("User"), "--regid", setting("Group"), "--init-groups", "--no-new-privs",
		"--inh-caps", only, "--ambient-caps", only, "--bounding-set", only}
	c.StartAs([]string{"HOME=/var/lib/caddy", "CADDY_ADMIN=" + c.Admin, fmt.Sprint("PORT=", c.Port)},
		append(command, strings.Fields(setting("ExecStart"))...)...)
}

// buildDeb makes the package of a binary.
func buildDeb(t *testing.T, binary string) (file string) {
	t.Helper()
	dir := t.TempDir()
	run(t, []string{"DEB_COMPRESSION=-Znone", "SOURCE_DATE_EPOCH=1790000000"}, script("deb"), binary, "1:2.11.9+taggedurls1.2.3-1", "amd64", dir)
	return filepath.Join(dir, "caddy_2.11.9+taggedurls1.2.3-1_amd64.deb")
}

// buildOther makes a package as Debian's own of Caddy, in what matters.
func buildOther(t *testing.T) (file string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "caddy")
	for name, text := range map[string]string{
		"DEBIAN/control":                   "Package: caddy\nVersion: 2.6.2-5\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: web server\n",
		"DEBIAN/conffiles":                 "/etc/caddy/Caddyfile\n",
		"DEBIAN/postrm":                    "#!/bin/sh\nif [ \"$1\" = purge ]; then rm -rf /var/lib/caddy /var/log/caddy /etc/caddy; fi\n",
		"etc/caddy/Caddyfile":              ":80\n",
		"usr/bin/caddy":                    "#!/bin/sh\n",
		"lib/systemd/system/caddy.service": "[Service]\nExecStart=/usr/bin/caddy\n",
		"usr/share/man/man8/caddy.8.gz":    "",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		harness.WriteFile(t, file, text)
		if err := os.Chmod(file, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, nil, "dpkg-deb", "--root-owner-group", "--build", "-Znone", dir, dir+".deb")
	return dir + ".deb"
}

// upgraded is what the service manager is told when a version has come before,
// also one that was removed and so doesn't run.
const upgraded = "try-restart caddy.service caddy-api.service\nstart caddy.service\n"

// TestDebianPackage takes over from another package of Caddy, upgrades with
// records waiting, is removed and purged, and installed afresh.
func TestDebianPackage(t *testing.T) {
	t.Parallel()
	needRoot(t, "dpkg", "dpkg-deb", "systemd-analyze")
	binary, err := harness.Build()
	if err != nil {
		t.Fatal(err)
	}
	trk := harness.StartTracker(t)
	c := harness.NewCaddy(t, harness.Build, nil)
	m := startMachine(t)
	dpkg := func(args ...string) { t.Helper(); m.run(t, append([]string{"dpkg", "--force-unsafe-io"}, args...)...) }

	// Another's package, used: its Caddyfile was changed, and it has data.
	other, ours := buildOther(t), buildDeb(t, binary)
	dpkg("--install", other)
	m.run(t, "sh", "-ec", `printf %s "$1" >/etc/caddy/Caddyfile; mkdir -p /var/lib/caddy; echo kept >/var/lib/caddy/certificate`,
		"sh", fmt.Sprintf(site, c.Port, trk.URL))
	// Nobody is there to answer a question of dpkg's.
	dpkg("--install", ours)
	if told := m.told(t); told != upgraded {
		t.Errorf("at the upgrade of another package the service manager was told: %s", told)
	}
	if listed := m.run(t, "dpkg-query", "--show", "--showformat", "${Status} ${Version}", "caddy"); listed != "install ok installed 1:2.11.9+taggedurls1.2.3-1" {
		t.Errorf("dpkg says: %s", listed)
	}
	for _, file := range []string{"/usr/lib/systemd/system/caddy.service", "/usr/share/man/man8/caddy.8.gz", "/usr/share/man/man8/caddy-tagged-urls-explain.8.gz",
		"/usr/share/bash-completion/completions/caddy", "/var/lib/caddy/certificate"} {
		if !m.has(t, file) {
			t.Errorf("%s is missing", file)
		}
	}
	if verified := m.run(t, "dpkg", "--verify", "caddy"); verified != "" && !strings.HasSuffix(strings.TrimSpace(verified), "/etc/caddy/Caddyfile") {
		t.Errorf("files differ from the package's: %s", verified)
	}
	if wrong := m.run(t, "systemd-analyze", "verify", "--man=no", "caddy.service", "caddy-api.service"); strings.Contains(wrong, "caddy") {
		t.Errorf("systemd says: %s", wrong)
	}
	// A score of 2.0 at most; Caddy's own unit has 8.8.
	m.run(t, "systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", "caddy.service")

	m.run(t, "chown", "-R", "caddy:caddy", "/var/lib/caddy") // as StateDirectory= does
	m.service(t, c)
	trk.Down()
	for i := range 3 {
		if p := harness.NewVisitor(t).Open(fmt.Sprintf("%s/?kme=Visited&kmi=visitor%d", c.URL, i)); p.Body != "page" {
			t.Errorf("%d %s", p.Status, p.Body)
		}
	}
	dpkg("--install", ours) // while it runs
	if told := m.told(t); told != upgraded {
		t.Errorf("at an upgrade the service manager was told: %s", told)
	}
	c.Stop()
	m.service(t, c)
	trk.Up()
	trk.Expect(t, c, []string{"visitor0", "visitor1", "visitor2"},
		"/e person=visitor0 name=Visited", "/e person=visitor1 name=Visited", "/e person=visitor2 name=Visited")
	c.Stop()

	dpkg("--remove", "caddy")
	if told := m.told(t); told != "stop caddy.service caddy-api.service\n" {
		t.Errorf("at a removal the service manager was told: %s", told)
	}
	if m.has(t, "/usr/bin/caddy") || !m.has(t, "/var/lib/caddy/certificate") || !m.has(t, "/etc/caddy/Caddyfile") {
		t.Error("a removal leaves the binary, or takes configuration or data")
	}
	dpkg("--install", ours)
	if told := m.told(t); told != upgraded {
		t.Errorf("after a removal the service manager was told: %s", told)
	}
	dpkg("--purge", "caddy")
	for _, dir := range []string{"/var/lib/caddy", "/var/log/caddy", "/etc/caddy"} {
		if m.has(t, dir) {
			t.Errorf("a purge leaves %s", dir)
		}
	}

	// As on a machine that never had Caddy.
	m.told(t)
	dpkg("--install", ours)
	if told := m.told(t); told != "start caddy.service\n" {
		t.Errorf("at an installation the service manager was told: %s", told)
	}
	m.service(t, c)
	harness.Eventually(t, "a record of the example's", func() bool {
		// Its queue is not as patient as the tests' are.
		p := harness.NewVisitor(t).Open(c.URL + "/?kme=First&kmi=ann")
		if !strings.Contains(p.Body, "Caddy works") {
			t.Fatalf("%d %s", p.Status, p.Body)
		}
		return c.Metric("caddy_tagged_urls_deliveries_total", `result="delivered"`) > 0
	})
	if c.Logged("kmi=ann") {
		t.Error("the access log shows the identity")
	}
}

// TestDebianPackageIsReproducible makes a package twice, at different places
// and times, from a binary that stands for Caddy.
func TestDebianPackageIsReproducible(t *testing.T) {
	t.Parallel()
	harness.Need(t, "dpkg-deb")
	stub := filepath.Join(t.TempDir(), "stub")
	if err := os.WriteFile(stub, []byte(`#!/bin/sh
if [ "$1" = manpage ]; then mkdir -p "$3"; echo caddy >"$3/caddy.8"; else echo "$@"; fi
`), 0o755); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(buildDeb(t, stub))
	if err != nil {
		t.Fatal(err)
	}
	file := buildDeb(t, stub)
	second, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(first, second) {
		t.Error("the same package twice isn't the same")
	}
	// Whoever installs it owns nothing of it but root.
	root := t.TempDir()
	run(t, nil, "dpkg-deb", "--extract", file, root)
	var size int64 // in KiB, whatever the file system
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o022 != 0 {
			t.Errorf("%s may be written by others", strings.TrimPrefix(path, root))
		}
		switch {
		case err != nil || !strings.HasPrefix(path, filepath.Join(root, "usr")):
		case info.IsDir():
			size++
		default:
			size += (info.Size() + 1023) / 1024
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if said := strings.TrimSpace(run(t, nil, "dpkg-deb", "--field", file, "Installed-Size")); said != fmt.Sprint(size) {
		t.Errorf("Installed-Size is %s, and the files take up %d KiB", said, size)
	}
}
