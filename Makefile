# PiMoE. `make help` lists the targets. Needs Go and make; `make test` installs the rest where it may.

SHELL    := /bin/bash
GO       ?= go
BIN      ?= bin
FUZZTIME ?= 10s
SIMULATE ?= 10m
MUTANTS  ?= 150
REDIS_CHAOS ?= 60s
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
# Plugins are the commands below plugins/cmd; the executables carry the folders' names.
PLUGINS  := $(notdir $(patsubst %/,%,$(wildcard plugins/cmd/*/)))

.DEFAULT_GOAL := build

.PHONY: build
build: $(BIN)/plugins.yaml ## build the host and the plugins into ./bin, with the catalogue of their digests

# Go's own cache decides what is stale, so the targets are always asked.
.PHONY: FORCE
FORCE:

$(BIN)/pimoe: FORCE
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./server/cmd/pimoe

$(BIN)/pimoe-%: FORCE
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./plugins/cmd/pimoe-$*

# What others can write is not started, whatever the user's umask is.
$(BIN)/plugins.yaml: $(BIN)/pimoe $(addprefix $(BIN)/,$(PLUGINS))
	@chmod go-w $(BIN) $^
	@./$(BIN)/pimoe plugins pin --plugins $(BIN)

.PHONY: plugins
plugins: $(addprefix $(BIN)/,$(PLUGINS)) ## build only the plugins into ./bin

.PHONY: run
run: build ## build, then serve the embedded model on http://127.0.0.1:8080
	@./$(BIN)/pimoe serve

.PHONY: test
test: ## install what the tests need, run everything, list what was skipped
	@scripts/setup.sh
	@$(MAKE) --no-print-directory build
	@GO="$(GO)" scripts/test.sh

.PHONY: check
check: ## the quick half of test: format, vet and tests without race detector
	@test -z "$$(gofmt -l $$(git ls-files -co --exclude-standard -- '*.go'))" || { echo "run: make fmt"; exit 1; }
	$(GO) vet ./...
	$(GO) test ./...

.PHONY: fmt
fmt: ## format all Go files
	gofmt -w $$(git ls-files -co --exclude-standard -- '*.go')

.PHONY: bench
bench: build ## measure everything on a quiet machine and write docs/benchmarks.md (see scripts/bench.sh)
	@scripts/bench.sh

# SHAPE and BENCH choose what is measured: make bench-serve SHAPE=olmoe-4l BENCH="--backend int8 --trunk-backend int8 --rounds 1"
SHAPE ?= small
BENCH ?= --backend int8 --trunk-backend int8

.PHONY: bench-serve
bench-serve: build ## 32 streaming clients over HTTP
	@./$(BIN)/pimoe bench http --shape $(SHAPE) $(BENCH)

.PHONY: connections
connections: build ## 10,000 WebSockets and event streams held for a minute, then 1,000 that do not read, then 5,000 slow ones; writes docs/benchmarks.md
	@scripts/connections.sh

.PHONY: bench-process
bench-process: build ## hidden states over HTTP beside a FastAPI and PyTorch service; writes docs/benchmarks.md (see the script)
	@scripts/bench-process.sh

.PHONY: alert-rules
alert-rules: ## 20 times as many generated rules as in make test, here and in promtool
	PIMOE_TEST_ALERT_SEEDS=20 go test -run TestPrometheusAgreesOnGeneratedRules -count=1 -v ./server/alert

.PHONY: alerts
alerts: build ## every alert fires and is resolved on a real server to which its cause is really done
	PIMOE_BIN=$(CURDIR)/$(BIN) PIMOE_TEST_ALERTS=1 $(GO) test -count=1 -v -timeout 20m -run '^TestEveryAlertIsProvoked$$' ./server

# Of a server for people who wait: as many run as a step holds, and none waits longer than it takes to answer.
OVERLOAD ?= --strict --set limits.max_concurrent_requests=32 --set limits.max_queue_time=200ms

.PHONY: overload
overload: build ## 1 to 10 times the load that the server can bear, a tenant that floods, retries after an outage
	@./$(BIN)/pimoe bench overload $(OVERLOAD)

.PHONY: tracing-cost
tracing-cost: ## throughput with sampled tracing, a collector and scrapes, beside a host with neither, in one run
	$(GO) test -count=1 -timeout 30m -run '^$$' -bench TracingCost -benchtime 10x ./server/acceptance
	$(GO) test -count=1 -run '^$$' -bench 'Follow|NobodyFollows' ./core/host ./server/tracing

.PHONY: bench-kernels
bench-kernels: build ## every kernel beside the machine's limits
	@./$(BIN)/pimoe bench kernels --backend cpu,int8

.PHONY: bench-routers
bench-routers: build ## every routing strategy on the embedded model: quality, balance, speed; writes docs/routers.md
	@scripts/bench-routers.sh

.PHONY: bench-degraded
bench-degraded: build ## what lost experts cost in perplexity, by number and kind, on the embedded model
	@./$(BIN)/pimoe experts profile --curve

.PHONY: remote
remote: ## experts on other machines under partitions, kills, delays and losses, fifty times as long as in the tests
	PIMOE_TEST_REMOTE=50 $(GO) test -count=1 -timeout 60m -run '^TestRemote' -v ./server/acceptance | grep -E 'answers,|^(---|ok|FAIL)'

.PHONY: bench-remote
bench-remote: ## tokens a second with experts here, in a program on loopback, and 1 ms away
	$(GO) test -run '^$$' -bench '^BenchmarkRemote$$' -benchtime 3x ./server/acceptance | grep -E 'Benchmark|ok'

.PHONY: bench-hops
bench-hops: ## what a call into another process costs: one row there and back, and a layer of two experts behind the router
	$(GO) test -run '^$$' -bench 'RoundTrip|Layer' -benchtime 2s ./core/host

.PHONY: bench-forms
bench-forms: ## what holding answers to a form costs at batch 8
	$(GO) test -run '^$$' -bench '^BenchmarkForm$$' -benchtime 40x ./core/engine

# A turn must be longer than the interval, or medians hide what a measurement costs.
.PHONY: bench-metrics
bench-metrics: build ## what measuring by the clock costs: throughput with metrics.interval 1s, 100ms and 0, by turns; and a scrape
	@./$(BIN)/pimoe bench --set metrics.interval=0s --with metrics.interval=1s --with metrics.interval=100ms --workload 32x32+900 --rounds 8
	$(GO) test -run '^$$' -bench 'Measure|Scrape' -benchtime 2s ./server/meter ./server

.PHONY: bench-start
bench-start: ## what confining a plugin adds to its start
	$(GO) test -run '^$$' -bench '^BenchmarkStart$$' -benchtime 100x -count 3 ./sdk/client

.PHONY: fuzz
fuzz: ## run every fuzz test for FUZZTIME each (10s)
	@for f in $$(grep -rlE '^func Fuzz' --include='*_test.go' .); do \
	  for name in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' $$f); do \
	    echo "== $$(dirname $$f) $$name"; \
	    $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) $$(dirname $$f) || exit 1; \
	  done; \
	done

# SEED repeats a run; ten runs with ten seeds are the evidence for a release.
SEED ?= 1

.PHONY: chaos
chaos: build ## 10,000 kills and stops of experts and router under load, two replicas (some 17 minutes); pairs of faults
	./$(BIN)/pimoe chaos --kill 6 --stop 3 --router 1 --for 1000s --replicas 2 --seed $(SEED)
	./$(BIN)/pimoe chaos --slow 1 --oom 0.5 --corrupt 0.2 --kill 2 --for 120s --replicas 2 --seed $(SEED)
	./$(BIN)/pimoe chaos --pairs 1000 --replicas 2 --seed $(SEED)

.PHONY: chaos-host
chaos-host: build ## 1,000 kills of the server, a third of them during its start and a third in reloads; and the ends that the tests know, many more times
	./$(BIN)/pimoe chaos host --times 1000 --seed $(SEED)
	PIMOE_BIN=$(CURDIR)/$(BIN) PIMOE_INVARIANCE=all PIMOE_KILLS=1000 PIMOE_HOST_KILLS=200 PIMOE_TERMINATIONS=100 PIMOE_STRICT_TIMES=1 \
	  $(GO) test -count=1 -v -timeout 2h -run 'Kill|Stop|Terminate|SecondSignal|Rot|Invalid|Invariance' ./server/acceptance

# JOBKILLS is how often the host dies in the middle of jobs.
JOBKILLS ?= 200

.PHONY: jobs-chaos
jobs-chaos: build ## 200 kills of the server in the middle of jobs, and 20 hand-overs: nothing lost, nothing twice
	PIMOE_BIN=$(CURDIR)/$(BIN) PIMOE_JOB_KILLS=$(JOBKILLS) PIMOE_JOB_HANDOVERS=20 \
	  $(GO) test -count=1 -v -timeout 2h -run 'TestJobs' ./server/acceptance

# SCHEMAS is how many answers have to be valid; SEED chooses the schemas.
SCHEMAS ?= 1000

.PHONY: schemas
schemas: build ## answers held to 1,000 JSON Schemas of hypothesis-jsonschema, judged by Python's jsonschema
	server/clienttest/setup.sh
	PIMOE_BIN=$(CURDIR)/$(BIN) PIMOE_SCHEMAS=$(SCHEMAS) PIMOE_SEED=$(SEED) \
	  $(GO) test -count=1 -v -timeout 1h -run 'TestOfficialClients/schemas' ./server/clienttest

# EXAMPLES is how many requests each operation of the OpenAPI description gets.
EXAMPLES ?= 100

.PHONY: description
description: ## Schemathesis asks a server what its OpenAPI description allows, and judges the answers
	server/clienttest/description.sh
	PIMOE_EXAMPLES=$(EXAMPLES) $(GO) test -count=1 -v -timeout 40m -run 'TestDescription' ./server/clienttest

.PHONY: bombs
bombs: ## small requests that are meant to be dear to read: what each takes in time and memory
	$(GO) test -count=1 -v -run 'TestBombs' ./server

.PHONY: smuggling
smuggling: ## every attack on the framing of requests, directly and through nginx with a kept connection
	PIMOE_ATTACKS=1 $(GO) test -count=1 -v -timeout 10m -run 'TestVectors|Smuggling' ./server/framing ./server
.PHONY: console-shots
console-shots: build ## use the console in a real browser and write pictures of it to build/console
	server/clienttest/setup.sh
	PIMOE_BIN=$(CURDIR)/$(BIN) PIMOE_SHOTS=$(CURDIR)/build/console $(GO) test -count=1 -v -run '^TestConsole$$' ./server/clienttest

.PHONY: byzantine
byzantine: build ## an expert that lies in every way it knows, 1,000 requests each
	PIMOE_BIN=$(CURDIR)/$(BIN) PIMOE_BYZANTINE_REQUESTS=1000 \
	  $(GO) test -count=1 -v -timeout 2h -run 'Byzantine|HungCall|PoisonedRows' ./server/acceptance

.PHONY: scale-soak
scale-soak: build ## groups grow and shrink 1,000 times under load, every bit compared
	PIMOE_BIN=$(CURDIR)/$(BIN) PIMOE_SCALINGS=1000 \
	  $(GO) test -count=1 -v -timeout 2h -run 'TestScale$$|ReplicasFollowLoad' ./server/acceptance

.PHONY: reload
reload: build ## 500 bad configurations, 100 upgrades of plugins and 50 hand-overs of the host, under load
	PIMOE_BIN=$(CURDIR)/$(BIN) PIMOE_BAD_CONFIGS=500 PIMOE_UPGRADES=100 PIMOE_ROUTER_RELOADS=50 PIMOE_HANDOVERS=50 \
	  $(GO) test -count=1 -v -timeout 2h -run 'BadReloads|RollingUpgrade|ReloadRouter|HandOver|Succession' ./server/acceptance

.PHONY: redis-chaos
redis-chaos: ## Redis killed, frozen, slow, cut, corrupting and lying under load, 60 s each (some 15 minutes); 1,000,000 mutated records
	PIMOE_MUTATIONS=1000000 $(GO) test -count=1 -v -timeout 1h -run 'Mutated' ./server/cache
	PIMOE_REDIS_CHAOS=$(REDIS_CHAOS) $(GO) test -count=1 -v -timeout 1h -run 'TestRedis' ./server

.PHONY: tenants
tenants: build ## 1,000,000 requests of 64 tenants with words of their own, cancels and kills, answers kept: no word reaches another
	PIMOE_BIN=$(CURDIR)/$(BIN) PIMOE_TENANT_REQUESTS=1000000 \
	  $(GO) test -count=1 -v -timeout 4h -run 'TestTenantsNeverMeet' ./server/acceptance

.PHONY: soak
soak: build ## 1,000,000 requests and 1,000 restarts (about an hour), watching memory, goroutines, descriptors and maps
	./$(BIN)/pimoe chaos soak --requests 1000000 --restarts 1000 --tokens 2 --seed $(SEED)
	PIMOE_BIN=$(CURDIR)/$(BIN) PIMOE_LEAK_REQUESTS=20000 PIMOE_LEAK_RESTARTS=1000 \
	  $(GO) test -count=1 -v -timeout 4h -run 'Leak' ./server/acceptance

.PHONY: simulate
simulate: ## SIMULATE (10m) of virtual faults with seeds from the clock; a failure names the seed that repeats it
	PIMOE_SIM_FOR=$(SIMULATE) $(GO) test -count=1 -v -timeout 24h -run 'TestSimulation$$' ./core/host

.PHONY: mutants
mutants: ## make MUTANTS (150; 0 = all) small bugs, one at a time, in what handles faults, and name those that no test notices
	cd scripts/mutate && $(GO) build -o ../../build/mutate .
	build/mutate -n $(MUTANTS) -accepted scripts/mutate/accepted.txt

.PHONY: nginx
nginx: build ## nginx before two hosts at 200 requests a second: each is killed and restarted, again and again
	PIMOE_BIN=$(CURDIR)/$(BIN) PIMOE_NGINX_RATE=200 PIMOE_NGINX_ROUNDS=10 \
	  $(GO) test -count=1 -v -timeout 30m -run 'TestBeforeHosts' ./server/deploy/nginx

.PHONY: image
image: build ## assemble the files of both images below build/image and the host's bill of materials
	@scripts/image.sh tree host build/image/host && scripts/image.sh tree plugins build/image/plugins
	@echo "build/image/host and build/image/plugins; scripts/image.sh run build/image/host FOLDER runs the host"

.PHONY: composecheck
composecheck: ## hold deploy/compose against the compose specification, by compose's own library
	cd scripts/composecheck && $(GO) run . ../../deploy/compose/compose.yaml

# CUDA names a CUDA installation; empty = Debian's headers, fetched into build/; emulation = the emulated driver.
CUDA ?=

.PHONY: cuda
cuda: ## build bin/pimoe-expert-cuda for NVIDIA GPUs (see docs/cuda.md), in place of the one that says why it can't run
	@[ -n "$(CUDA)" ] || scripts/cuda/headers.sh
	@mkdir -p $(BIN)
	CUDA=$(or $(CUDA),$(CURDIR)/build/cuda-headers) && . scripts/cuda/env.sh && \
	  $(GO) build -tags cuda -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/pimoe-expert-cuda ./plugins/cmd/pimoe-expert-cuda
	@if [ -x $(BIN)/pimoe ]; then chmod go-w $(BIN)/pimoe-expert-cuda && ./$(BIN)/pimoe plugins pin --plugins $(BIN); fi

.PHONY: cuda-test
cuda-test: ## the CUDA backend on the emulated driver, with the race detector
	GO="$(GO)" scripts/cuda/test.sh -race

.PHONY: gpu-proof
gpu-proof: build ## on a machine with a GPU: conformance, parity, faults and benchmarks of the CUDA backend; writes build/gpu-proof.md
	@GO="$(GO)" CUDA="$(CUDA)" PIMOE_BIN="$(CURDIR)/$(BIN)" scripts/cuda/proof.sh

.PHONY: lint
lint: ## vet, and staticcheck at the pinned version
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

.PHONY: proto
proto: ## regenerate the Go files of the protocols (needs protoc)
	sdk/proto/generate.sh
	server/oip/generate.sh

.PHONY: sdk
sdk: ## regenerate the Python and TypeScript clients from server/openapi.yaml
	scripts/sdk.sh

.PHONY: docs
docs: build ## rewrite the generated parts of docs/
	PIMOE_TEST_UPDATE=1 $(GO) test -count=1 -run 'TestConfigureListsEveryKey|TestPage$$' . ./core/metrics/catalogue
	PIMOE_TEST_UPDATE=1 $(GO) test -count=1 -run TestFolder ./server/deploy/targets
	PIMOE_TEST_UPDATE=1 $(GO) test -count=1 -run TestText ./server/deploy/kube

OTHERS := linux/arm64 darwin/arm64

.PHONY: cross
cross: ## vet everything for linux/arm64 and darwin/arm64, and link the host and an expert
	@for t in $(OTHERS); do \
	  echo "== $$t"; \
	  GOOS=$${t%/*} GOARCH=$${t#*/} CGO_ENABLED=0 $(GO) build -o /dev/null ./server/cmd/pimoe && \
	  GOOS=$${t%/*} GOARCH=$${t#*/} CGO_ENABLED=0 $(GO) build -o /dev/null ./plugins/cmd/pimoe-expert-int8 && \
	  GOOS=$${t%/*} GOARCH=$${t#*/} CGO_ENABLED=0 $(GO) vet ./... || exit 1; \
	done

# All of the assembly that is not for amd64 is for linux/arm64, and in the expert.
.PHONY: cross-check
cross-check: ## the quick part of cross, which make test runs: types of everything, and an expert linked for linux/arm64
	@cd scripts/typecheck && $(GO) vet ./... && $(GO) test ./... && $(GO) run . ../.. $(OTHERS)
	@GOOS=linux GOARCH=arm64 CGO_ENABLED=0 $(GO) build -o /dev/null ./plugins/cmd/pimoe-expert-int8

.PHONY: kube-check
kube-check: ## manifests against the Kubernetes API's types, the chart against the real Helm (minutes where neither is built yet)
	cd scripts/kubecheck && $(GO) vet ./... && $(GO) test -count=1 ./...

.PHONY: hooks
hooks: ## install the pre-commit hook
	install -m 755 scripts/pre-commit "$$(git rev-parse --git-path hooks)/pre-commit"

.PHONY: clean
clean: ## remove what the targets have built
	rm -rf $(BIN) build

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
