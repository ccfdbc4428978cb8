package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// shortDir makes a directory whose path a Unix socket's address can hold.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tu-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startPHP starts PHP-FPM and returns the path of its socket.
func startPHP(t *testing.T) string {
	t.Helper()
	fpm := need(t, "php-fpm", "php-fpm[0-9]*")
	dir := shortDir(t)
	socket := filepath.Join(dir, "fpm.sock")
	user := ""
	args := []string{"--nodaemonize", "-n", "--fpm-config", filepath.Join(dir, "fpm.conf")}
	if os.Getuid() == 0 {
		user, args = "user = root\ngroup = root\n", append(args, "--allow-to-run-as-root")
	}
	writeFile(t, filepath.Join(dir, "fpm.conf"), "[global]\nerror_log = /dev/stderr\n[site]\n"+user+
		"listen = "+socket+"\npm = static\npm.max_children = 2\nclear_env = yes\n")
	startProcess(t, "PHP-FPM", nil, fpm, args...).listening(t, "unix", socket)
	return socket
}

// startCache starts nginx as a shared cache in front of a server. It keeps
// every page for ten minutes, even one that sets a cookie, unless Cache-Control
// and the like say that it mayn't.
func startCache(t *testing.T, origin string) (url string) {
	t.Helper()
	nginx := need(t, "nginx")
	dir, addr := shortDir(t), loopback(freePort(t))
	user := ""
	if os.Getuid() == 0 {
		user = "user root;\n"
	}
	writeFile(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(user+`
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
	startProcess(t, "nginx", nil, nginx, "-p", dir, "-e", "stderr", "-c", filepath.Join(dir, "nginx.conf")).listening(t, "tcp", addr)
	return "http://" + addr
}
