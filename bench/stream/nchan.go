//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/freshwire/freshwire/bench/internal/rig"
)

const nchanPackage = "libnginx-mod-nchan"

// nchanModule finds Debian's nchan.
func nchanModule() (string, error) {
	const path = "/usr/lib/nginx/modules/ngx_nchan_module.so"
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("nchan is %w: apt-get install nginx-light %s", rig.ErrMissing, nchanPackage)
	}
	return path, nil
}

// nchanConfig is nginx with one worker and nchan's own defaults, but for the
// history, which is that of the others, and newcomers, who are told what is new.
const nchanConfig = `load_module %[2]s;
daemon off;
user %[3]s;
worker_processes 1;
worker_rlimit_nofile %[4]d;
error_log stderr error;
pid %[1]s/nginx.pid;
events { worker_connections %[4]d; }
http {
	access_log off;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	client_body_temp_path %[1]s/body;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	proxy_temp_path %[1]s/temp;
	nchan_message_buffer_length %[5]d;
	nchan_message_timeout 1h;
	%[6]s
	server {
		listen %[7]s backlog=4096;
		location = /publish {
			nchan_publisher;
			%[8]s
			nchan_channel_id bench;
		}
		location = /events {
			nchan_subscriber eventsource;
			%[8]s
			nchan_channel_id bench;
			nchan_subscriber_first_message newest;
		}
	}
}
`

// startNchan starts nginx with nchan, which keeps messages in its memory, or
// in the Redis that srv has.
func (s *stand) startNchan(ctx context.Context, srv *server, core int) error {
	module, err := nchanModule()
	if err != nil {
		return err
	}
	home, err := os.MkdirTemp(s.dir, "nginx-")
	if err != nil {
		return err
	}
	addr, err := rig.FreeAddr()
	if err != nil {
		return err
	}
	files, err := openFiles()
	if err != nil {
		return err
	}
	upstream, pass := "", ""
	if srv.redis != nil {
		upstream = fmt.Sprintf("upstream redis { nchan_redis_server redis://%s; }", srv.redis.Addr)
		pass = "nchan_redis_pass redis;"
	}
	file := filepath.Join(home, "nginx.conf")
	text := fmt.Appendf(nil, nchanConfig, home, module, owner(), files, history, upstream, addr, pass)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	cmd, err := rig.Command("nginx", "-p", home, "-c", file, "-e", "stderr")
	if err != nil {
		return err
	}
	if srv.Process, err = rig.Start(cmd, core); err != nil {
		return err
	}
	srv.Addr = addr
	srv.target = target{Addr: addr, Path: "/events", PublishPath: "/publish"}
	return srv.Ready(ctx, func(ctx context.Context) error {
		// Of a channel that is not there yet it says 404; without its Redis, 503.
		return answers(ctx, "http://"+addr+srv.target.PublishPath, http.StatusOK, http.StatusNotFound)
	})
}

// owner keeps nginx from becoming somebody who may not read our files.
func owner() string {
	if os.Geteuid() == 0 {
		return "root root"
	}
	return "nobody" // ignored, with a warning: nobody but root can become another
}
