# PiMoE. `make help` lists the targets. Needs Go and make; `make test` installs the rest where it may.

SHELL   := /bin/bash
GO      ?= go
BIN     ?= bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
# Plugins are the commands below plugins/cmd; the binaries carry the folder names.
PLUGINS := $(notdir $(patsubst %/,%,$(wildcard plugins/cmd/*/)))

.DEFAULT_GOAL := build

.PHONY: build
build: $(BIN)/pimoe $(addprefix $(BIN)/,$(PLUGINS)) ## build the host and the plugins into ./bin

# Go's own cache decides what is stale, so the targets are always asked.
.PHONY: FORCE
FORCE:

$(BIN)/pimoe: FORCE
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./server/cmd/pimoe

$(BIN)/pimoe-%: FORCE
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./plugins/cmd/pimoe-$*

.PHONY: plugins
plugins: $(addprefix $(BIN)/,$(PLUGINS)) ## build only the plugins into ./bin

.PHONY: run
run: build ## build, then serve the embedded model on http://127.0.0.1:8080
	./$(BIN)/pimoe serve

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
