package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryMistakeOfTheEnvironmentIsTold(t *testing.T) {
	for name, value := range map[string]string{"LOG_LEVEL": "loud", "LOG_FORMAT": "xml", "FRESHWIRE_NAMESPACE": "Site 1", "PORT": "http",
		"FRESHWIRE_ADDR": "8080", "FRESHWIRE_ACK": "soon", "FRESHWIRE_SSE_MODE": "fast", "FRESHWIRE_TLS_CERT": "cert.pem", "FRESHWIRE_RATE_LIMIT": "lots",
		"FRESHWIRE_CORS_ORIGINS": "https://good.example,*", "FRESHWIRE_TRUSTED_PROXIES": "10.0.0.1", "REDIS_URL": "memcached://h"} {
		t.Setenv(name, value)
	}
	_, err := loadEnvironment()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, name := range []string{"LOG_LEVEL", "LOG_FORMAT", "FRESHWIRE_NAMESPACE", "PORT", "FRESHWIRE_ADDR", "FRESHWIRE_ACK",
		"FRESHWIRE_SSE_MODE", "FRESHWIRE_TLS_CERT", "FRESHWIRE_RATE_LIMIT", "FRESHWIRE_CORS_ORIGINS", "FRESHWIRE_TRUSTED_PROXIES", "REDIS_URL"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not told of in:\n%v", name, err)
		}
	}
}

func TestReplicaIsOneOfARealRedis(t *testing.T) {
	t.Setenv("FRESHWIRE_REPLICA_URL", "redis://u:hunter2@replica:1:2")
	_, err := loadEnvironment()
	if err == nil || !strings.Contains(err.Error(), "is not host:port") || !strings.Contains(err.Error(), "REDIS_URL is not set") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v, want two mistakes, and no password", err)
	}
	t.Setenv("REDIS_URL", "redis://127.0.0.1:6379")
	t.Setenv("FRESHWIRE_REPLICA_URL", "redis://replica")
	if _, err := loadEnvironment(); err != nil {
		t.Error(err)
	}
}

func TestTokenOfTheCacheIsNotTheOperators(t *testing.T) {
	t.Setenv("FRESHWIRE_ADMIN_TOKEN", "s3cret")
	t.Setenv("FRESHWIRE_ENTRIES_TOKEN", "s3cret")
	if _, err := loadEnvironment(); err == nil || !strings.Contains(err.Error(), "FRESHWIRE_ENTRIES_TOKEN") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v, want a mistake, and no token", err)
	}
}

func TestReplicatedAckNeedsARealRedis(t *testing.T) {
	t.Setenv("FRESHWIRE_ACK", "replicated")
	if _, err := loadEnvironment(); err == nil || !strings.Contains(err.Error(), "REDIS_URL") {
		t.Errorf("without REDIS_URL: %v, want a mistake that names it", err)
	}
	t.Setenv("REDIS_URL", "redis://127.0.0.1:6379")
	if _, err := loadEnvironment(); err != nil {
		t.Errorf("with REDIS_URL: %v", err)
	}
}

func TestSecretsComeFromFilesToo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FRESHWIRE_ADMIN_TOKEN_FILE", path)
	env, err := loadEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	if env.AdminToken != "s3cret" {
		t.Errorf("AdminToken = %q, want what the file holds", env.AdminToken)
	}
	t.Setenv("FRESHWIRE_ADMIN_TOKEN", "direct")
	if env, _ = loadEnvironment(); env.AdminToken != "direct" {
		t.Errorf("AdminToken = %q, want the variable to win over the file", env.AdminToken)
	}
	t.Setenv("FRESHWIRE_REVALIDATION_SECRET_FILE", filepath.Join(t.TempDir(), "none"))
	if _, err := loadEnvironment(); err == nil || !strings.Contains(err.Error(), "FRESHWIRE_REVALIDATION_SECRET_FILE") {
		t.Errorf("a secret file that is not there: %v", err)
	}
}

func TestAddressWinsOverPort(t *testing.T) {
	for _, tc := range []struct{ addr, port, want string }{
		{"", "", "127.0.0.1:8080"}, {"", "9000", ":9000"}, {"127.0.0.1:0", "9000", "127.0.0.1:0"},
	} {
		if got := (environment{Addr: tc.addr, Port: tc.port}).listenAddr(); got != tc.want {
			t.Errorf("listenAddr of %q and PORT %q = %q, want %q", tc.addr, tc.port, got, tc.want)
		}
	}
}
