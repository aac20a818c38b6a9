package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/freshwire/freshwire/tasks"
)

// parseRedisURL reads REDIS_URL. The scheme decides what kind of Redis it is.
// Errors never show the password.
func parseRedisURL(raw string) (*redis.UniversalOptions, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, errors.New("not a URL such as redis://127.0.0.1:6379/0")
	}
	kind, secure := strings.TrimPrefix(scheme, "rediss"), strings.HasPrefix(scheme, "rediss")
	if !secure {
		kind = strings.TrimPrefix(scheme, "redis")
		if kind == scheme {
			return nil, fmt.Errorf("unknown scheme %q: redis, rediss, redis+cluster, rediss+cluster, redis+sentinel, rediss+sentinel", scheme)
		}
	}
	options := &redis.UniversalOptions{ClientName: "freshwire"}
	if secure {
		options.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		user, password, _ := strings.Cut(rest[:at], ":")
		var err1, err2 error
		options.Username, err1 = url.PathUnescape(user)
		options.Password, err2 = url.PathUnescape(password)
		if errors.Join(err1, err2) != nil {
			return nil, errors.New("user or password holds a % that is no escape; write it as %25")
		}
		rest = rest[at+1:]
	}
	hosts, path, _ := strings.Cut(rest, "/")
	if strings.ContainsAny(path, "?#") || strings.ContainsAny(hosts, "?#") {
		return nil, errors.New("query parameters are not known; give host:port, and a database number or master name after the slash")
	}
	defaultPort := "6379"
	if kind == "+sentinel" {
		defaultPort = "26379"
	}
	for _, host := range strings.Split(hosts, ",") {
		addr, err := withPort(host, defaultPort)
		if err != nil {
			return nil, err
		}
		options.Addrs = append(options.Addrs, addr)
	}
	if options.TLSConfig != nil {
		options.TLSConfig.ServerName, _, _ = net.SplitHostPort(options.Addrs[0])
	}
	switch kind {
	case "":
		if len(options.Addrs) > 1 {
			return nil, errors.New("several hosts need redis+cluster:// or redis+sentinel://")
		}
		return options, setDatabase(options, path)
	case "+cluster":
		if path != "" && path != "0" {
			return nil, errors.New("a cluster has only database 0")
		}
		options.IsClusterMode = true
		return options, nil
	case "+sentinel":
		master, db, _ := strings.Cut(path, "/")
		if master == "" {
			return nil, errors.New("redis+sentinel:// needs the name of the master: redis+sentinel://h1,h2/mymaster")
		}
		options.MasterName = master
		return options, setDatabase(options, db)
	}
	return nil, fmt.Errorf("unknown scheme %q", scheme)
}

func withPort(host, port string) (string, error) {
	if host == "" {
		return "", errors.New("a host is missing")
	}
	if h, p, err := net.SplitHostPort(host); err == nil {
		if _, err := strconv.ParseUint(p, 10, 16); err != nil || h == "" {
			return "", fmt.Errorf("%q is not host:port", host)
		}
		return host, nil
	}
	if strings.Contains(strings.Trim(host, "[]"), ":") && !strings.HasPrefix(host, "[") {
		return "", fmt.Errorf("%q is not host:port", host)
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port), nil
}

func setDatabase(options *redis.UniversalOptions, path string) error {
	if path == "" {
		return nil
	}
	n, err := strconv.ParseUint(path, 10, 8)
	if err != nil {
		return fmt.Errorf("%q is no database number", path)
	}
	options.DB = int(n)
	return nil
}

// store is where everything is kept: a real Redis or the embedded one.
type store struct {
	options  *redis.UniversalOptions
	embedded *miniredis.Miniredis // nil on a real Redis
}

// newStore returns the store that url names; an empty url makes an embedded
// one, which is gone when the process ends.
func newStore(url string) (*store, error) {
	if url != "" {
		options, err := parseRedisURL(url)
		return &store{options: options}, err
	}
	m := miniredis.NewMiniRedis()
	return &store{embedded: m, options: &redis.UniversalOptions{
		Addrs:                    []string{"127.0.0.1:0"}, // never dialled: the dialer below answers
		Dialer:                   tasks.EmbeddedDialer(m.Dial),
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}}, nil
}

// client opens a client with the store's options as changed by tune.
func (s *store) client(tune func(*redis.UniversalOptions)) redis.UniversalClient {
	options := *s.options
	if s.embedded == nil {
		options.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	}
	if tune != nil {
		tune(&options)
	}
	return redis.NewUniversalClient(&options)
}

// newReplica opens a client that reads from the replica at url or, where url
// names a cluster or sentinels, from the nearest server, which may be a master.
func newReplica(url string, tune func(*redis.UniversalOptions)) (redis.UniversalClient, error) {
	options, err := parseRedisURL(url)
	if err != nil {
		return nil, err
	}
	if options.IsClusterMode || options.MasterName != "" {
		options.ReadOnly, options.RouteByLatency = true, true
	}
	return (&store{options: options}).client(tune), nil
}

// run moves the embedded store's clock: its expiries stand still without. It
// does nothing on a real Redis.
func (s *store) run(ctx context.Context) error {
	if s.embedded == nil {
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.embedded.FastForward(time.Second)
		case <-ctx.Done():
			return nil
		}
	}
}

// sharedClient hands asynq a client that is ours: nobody else closes it.
type sharedClient struct{ redis.UniversalClient }

// MakeRedisClient implements asynq.RedisConnOpt.
func (c sharedClient) MakeRedisClient() any { return c.UniversalClient }
