# One command for each thing that one does with this project. Everything is built in the release profile, into one
# target directory outside the work tree, so that RocksDB's C++ is compiled once for all clones on a machine.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO_TARGET_DIR ?= $(HOME)/.cache/mlvault-target
MLVAULT_TEST_TOOLS ?= $(HOME)/.cache/mlvault-tools
MLVAULT_PEERS ?= $(HOME)/.cache/mlvault-peers
export CARGO_TARGET_DIR MLVAULT_TEST_TOOLS MLVAULT_PEERS

MLVAULT := $(CARGO_TARGET_DIR)/release/mlvault
BENCH_ARGS ?=
DENY ?= bans licenses sources
PREFIX ?= /usr/local
DIST := $(CARGO_TARGET_DIR)/dist/mlvault
SHARE = $(DESTDIR)$(PREFIX)/share
# What `mlvault --version` names; nothing where there is no git, or no repository.
COMMIT ?= $(shell git describe --always --abbrev=12 --exclude='*' --dirty 2>/dev/null | sed "s/$$/, $$(git log -1 --format=%cs 2>/dev/null)/")

.PHONY: help install demo demo-kubernetes test manifests deny bench bench-audit bench-cold bench-deployment bench-retention bench-shards bench-stages bench-status fmt lint

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

install: ## Build mlvault as it ships, and install it into PREFIX (/usr/local) with completions, manual pages, systemd units
	@scripts/setup.sh build
	MLVAULT_COMMIT='$(COMMIT)' cargo build --profile dist --bin mlvault
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/lib/debug/mlvault'
	objcopy --only-keep-debug '$(DIST)' '$(DESTDIR)$(PREFIX)/lib/debug/mlvault/mlvault.debug'
	objcopy --strip-all --add-gnu-debuglink='$(DESTDIR)$(PREFIX)/lib/debug/mlvault/mlvault.debug' '$(DIST)' '$(DESTDIR)$(PREFIX)/bin/mlvault'
	install -d '$(SHARE)/bash-completion/completions' '$(SHARE)/zsh/site-functions' '$(SHARE)/fish/vendor_completions.d'
	'$(DIST)' completions bash > '$(SHARE)/bash-completion/completions/mlvault'
	'$(DIST)' completions zsh > '$(SHARE)/zsh/site-functions/_mlvault'
	'$(DIST)' completions fish > '$(SHARE)/fish/vendor_completions.d/mlvault.fish'
	'$(DIST)' man --out '$(SHARE)/man/man1'
	install -d '$(DESTDIR)$(PREFIX)/lib/systemd/system' '$(SHARE)/mlvault'
	install -m 644 deploy/systemd/* '$(DESTDIR)$(PREFIX)/lib/systemd/system'
	install -m 644 docs/mlvault.toml deploy/cron/mlvault deploy/prometheus/mlvault.rules.yml '$(SHARE)/mlvault'
	install -m 644 deploy/grafana/mlvault.json '$(SHARE)/mlvault/grafana.json'

demo: ## Lose a real MLflow deployment and get it back (needs about 2 minutes once everything is built)
	@scripts/setup.sh demo
	@cargo build --release
	@MLVAULT='$(MLVAULT)' demo/demo.sh

demo-kubernetes: ## Install mlvault beside MLflow on a real Kubernetes control plane, lose MLflow, get it back (about 10 minutes once built)
	@scripts/setup.sh test kubernetes
	@cargo test --release --test suite -- --nocapture --test-threads=1 kubernetes::journey

test: ## Run all tests
	@scripts/setup.sh test
	@scripts/test.sh

manifests: ## Render the chart of deploy/helm into the plain manifests of deploy/kubernetes
	@scripts/setup.sh kubernetes
	MLVAULT_BLESS=1 cargo test --release --test suite -- kubernetes::chart::the_plain_manifests

deny: ## Check licences and origins of all dependencies (DENY=advisories: known vulnerabilities, which needs GitHub)
	@scripts/setup.sh deny
	@PATH="$$MLVAULT_TEST_TOOLS/bin:$$PATH" cargo deny --log-level error check $(DENY)

bench: ## Measure mlvault beside restic, rustic, Borg and cp (BENCH_ARGS="--scale 0.1 --runs 1" for a quick look)
	@scripts/setup.sh bench
	@cargo build --release
	@"$$MLVAULT_TEST_TOOLS/bin/python" benches/peers.py --mlvault '$(MLVAULT)' $(BENCH_ARGS)

bench-deployment: ## Measure a deployment (PostgreSQL, S3, MLflow) beside pg_dump and rclone
	@scripts/setup.sh test
	@cargo build --release
	@"$$MLVAULT_TEST_TOOLS/bin/python" -B benches/deployment.py --mlvault '$(MLVAULT)' $(BENCH_ARGS)

bench-audit: ## Measure the history of 1,000 versions in 400 snapshots, and evidence about one
	@scripts/setup.sh test
	@cargo build --release
	@"$$MLVAULT_TEST_TOOLS/bin/python" -B benches/audit.py --mlvault '$(MLVAULT)' $(BENCH_ARGS)

bench-retention: ## Measure forget and prune beside restic and rustic
	@scripts/setup.sh test bench rustic
	@cargo build --release
	@"$$MLVAULT_TEST_TOOLS/bin/python" benches/retention.py --mlvault '$(MLVAULT)' $(BENCH_ARGS)

bench-cold: ## Measure a cold pod over a bucket beside its listing (BENCH_ARGS="--objects 10000" for a quick look)
	@scripts/setup.sh test
	@cargo build --release
	@"$$MLVAULT_TEST_TOOLS/bin/python" -B benches/cold.py --mlvault '$(MLVAULT)' $(BENCH_ARGS)

bench-shards: ## Measure a backup by 1 to 8 shards (BENCH_ARGS="--runs 500" for a quick look)
	@scripts/setup.sh test
	@cargo build --release
	@"$$MLVAULT_TEST_TOOLS/bin/python" -B benches/shards.py --mlvault '$(MLVAULT)' $(BENCH_ARGS)

bench-stages: ## Measure the stages of a backup one by one
	@scripts/setup.sh build
	cargo bench --bench stages

bench-status: ## Measure status on 400 snapshots, and a drill
	@scripts/setup.sh test
	@cargo build --release
	@"$$MLVAULT_TEST_TOOLS/bin/python" -B benches/status.py --mlvault '$(MLVAULT)' $(BENCH_ARGS)

fmt: ## Format the source
	cargo fmt

lint: ## Check the format, and compile with every warning an error
	cargo fmt --check
	cargo clippy --release --all-targets -- -D warnings
