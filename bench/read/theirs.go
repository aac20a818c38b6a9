package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/freshwire/freshwire/bench/internal/rig"
)

// varnishConfig names the origin and changes nothing else.
const varnishConfig = `vcl 4.1;
backend origin { .host = "127.0.0.1"; .port = "%s"; }
`

// startVarnish starts varnishd with its cache in memory and its own settings.
func (s *stand) startVarnish(ctx context.Context) (*server, error) {
	_, port, err := net.SplitHostPort(s.origin.addr)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "bench.vcl")
	if err := os.WriteFile(file, fmt.Appendf(nil, varnishConfig, port), 0o644); err != nil {
		return nil, err
	}
	addr, err := rig.FreeAddr()
	if err != nil {
		return nil, err
	}
	cmd, err := rig.Command("varnishd", "-F", "-j", "none", "-n", filepath.Join(s.dir, "varnish"), "-a", addr, "-f", file,
		"-s", "malloc,256m", "-T", "none")
	if err != nil {
		return nil, err
	}
	return s.startTheirs(ctx, nameVarnish, addr, cmd)
}

// nginxConfig is that of Debian where it matters for speed, with one worker,
// and connections that are kept as long as the load keeps them.
const nginxConfig = `daemon off;
master_process off;
worker_processes 1;
error_log stderr error;
pid %[1]s/nginx.pid;
events { worker_connections 2048; }
http {
	access_log off;
	sendfile on;
	tcp_nopush on;
	keepalive_timeout 1h;
	keepalive_requests 1000000000;
	client_body_temp_path %[1]s/body;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	proxy_temp_path %[1]s/temp;
	proxy_cache_path %[1]s/cache keys_zone=bench:10m max_size=256m inactive=1d;
	server {
		listen %[2]s;
		location / {
			proxy_pass http://%[3]s;
			proxy_cache bench;
			add_header X-Cache-Status $upstream_cache_status;
		}
	}
}
`

// startNginx starts nginx with proxy_cache. Its files are in the page cache.
func (s *stand) startNginx(ctx context.Context) (*server, error) {
	home := filepath.Join(s.dir, "nginx")
	if err := os.Mkdir(home, 0o755); err != nil {
		return nil, err
	}
	addr, err := rig.FreeAddr()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(home, "nginx.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, nginxConfig, home, addr, s.origin.addr), 0o644); err != nil {
		return nil, err
	}
	cmd, err := rig.Command("nginx", "-p", home, "-c", file, "-e", "stderr")
	if err != nil {
		return nil, err
	}
	return s.startTheirs(ctx, nameNginx, addr, cmd)
}

func (s *stand) startTheirs(ctx context.Context, name, addr string, cmd *exec.Cmd) (*server, error) {
	p, err := rig.Start(cmd, s.core)
	if err != nil {
		return nil, err
	}
	p.Addr = addr
	srv := &server{name: name, Process: p}
	if name == nameNginx {
		srv.marker = "X-Cache-Status: HIT"
	}
	return srv, p.Ready(ctx, p.Accepts)
}
