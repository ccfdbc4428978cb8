package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// startPHP starts PHP-FPM and returns the path of its socket.
func startPHP(t *testing.T) string {
	t.Helper()
	fpm := harness.Need(t, "php-fpm", "php-fpm[0-9]*")
	dir := harness.ShortDir(t)
	socket := filepath.Join(dir, "fpm.sock")
	user := ""
	args := []string{"--nodaemonize", "-n", "--fpm-config", filepath.Join(dir, "fpm.conf")}
	if os.Getuid() == 0 {
		user, args = "user = root\ngroup = root\n", append(args, "--allow-to-run-as-root")
	}
	harness.WriteFile(t, filepath.Join(dir, "fpm.conf"), "[global]\nerror_log = /dev/stderr\n[site]\n"+user+
		"listen = "+socket+"\npm = static\npm.max_children = 2\nclear_env = yes\n")
	harness.StartProcess(t, "PHP-FPM", nil, fpm, args...).Listening(t, "unix", socket)
	return socket
}

// startCache starts nginx as a shared cache in front of a server. It keeps
// every page for ten minutes, even one that sets a cookie, unless Cache-Control
// and the like say that it mayn't.
func startCache(t *testing.T, origin string) (url string) {
	t.Helper()
	nginx := harness.Need(t, "nginx")
	dir, addr := harness.ShortDir(t), harness.Loopback(harness.FreePort(t))
	user := ""
	if os.Getuid() == 0 {
		user = "user root;\n"
	}
	harness.WriteFile(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(user+`
daemon off;
pid %[1]s/pid;
error_log stderr;
worker_processes 1;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	proxy_cache_path %[1]s/cache keys_zone=pages:1m;
	server {
		listen %[2]s;
		location / {
			proxy_pass %[3]s;
			proxy_set_header Host $http_host;
			proxy_cache pages;
			proxy_cache_key $uri;
			proxy_cache_valid any 10m;
			proxy_ignore_headers Set-Cookie;
			add_header X-Cache $upstream_cache_status always;
		}
	}
}
`, dir, addr, origin))
	harness.StartProcess(t, "nginx", nil, nginx, "-p", dir, "-e", "stderr", "-c", filepath.Join(dir, "nginx.conf")).Listening(t, "tcp", addr)
	return "http://" + addr
}
