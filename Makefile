# `make` alone tells what can be done.
GO      ?= go
# Tests start real servers and browsers; two cores need patience, not speed.
TIMEOUT ?= 15m
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.DEFAULT_GOAL := help
.PHONY: help deps dev build test race bench e2e lint fuzz torture docs

help: ## show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install redis-server, chromium and three proxies (Debian, as root) when they are missing
	@missing=""; \
	command -v redis-server >/dev/null && command -v redis-cli >/dev/null || missing="$$missing redis-server"; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	for proxy in nginx haproxy caddy; do \
		command -v $$proxy >/dev/null || [ -x /usr/sbin/$$proxy ] || missing="$$missing $$proxy"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "missing:$$missing; install with: apt-get install$$missing" >&2; exit 1; \
	fi; \
	echo "installing$$missing"; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	systemctl stop redis-server nginx haproxy caddy >/dev/null 2>&1 || true

dev: ## run everything on the embedded store, with the demo site
	$(GO) run ./cmd/freshwire

build: ## build bin/freshwire
	$(GO) build -trimpath -o bin/freshwire ./cmd/freshwire

test: deps ## every test, with the race detector, on real servers and a real browser
	@test -z "$$(gofmt -l .)" || { echo "not gofmt'ed:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) test -race -count=1 -timeout $(TIMEOUT) ./...

race: deps ## the race run of the cache, 20 s a design, and its broken variants
	FRESHWIRE_RACE_SECONDS=20 $(GO) test -race -v -count=1 -timeout 30m -run 'TestReaderNeverSeesOlderThanNotice' ./cache

e2e: deps ## the whole program from outside: processes, kills, a browser
	$(GO) test -v -count=1 -timeout $(TIMEOUT) ./e2e

torture: deps ## long runs: edits and kills, 100,000 deliveries through 20 kill -9, a Redis that hangs, streams
	FRESHWIRE_TORTURE_SECONDS=20 $(GO) test -v -count=1 -timeout 30m -run 'TestPromiseHolds' ./e2e
	FRESHWIRE_TORTURE_DELIVERIES=100000 FRESHWIRE_TORTURE_KILLS=20 FRESHWIRE_TORTURE_FROZEN=10 \
		$(GO) test -v -count=1 -timeout 30m -run 'TestNothingAcknowledgedIsLostWhenRedisForgets|TestWebhooksAreAcknowledgedWhileRedisHangs' ./e2e
	FRESHWIRE_TORTURE_SEEDS=3000 $(GO) test -count=1 -timeout 30m ./journal
	FRESHWIRE_TORTURE_STREAM=1 FRESHWIRE_TORTURE_SOAK=10m $(GO) test -v -count=1 -parallel 1 -timeout 60m -run 'TestStream' ./e2e

bench: deps ## benchmarks, each beside its reference
	$(GO) run ./bench/read
	$(GO) run ./bench/purge
	$(GO) run ./bench/memory
	$(GO) run ./bench/ingest
	$(GO) run ./bench/stream
	$(GO) test -run '^$$' -bench . -benchmem ./...

lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l .)" || { echo "not gofmt'ed:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

FUZZTIME ?= 60s
fuzz: ## every fuzz target for FUZZTIME (60s)
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

docs: ## write docs/config.md, docs/freshwire.schema.json and the facts of docs/cms.md anew
	$(GO) test ./cmd/freshwire -run 'TestConfigDocs|TestSchemaFile|TestCMSDocs' -update -count=1
