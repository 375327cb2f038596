# Everything a person or CI does here. `make` alone lists the targets.
SHELL := /bin/bash
CARGO ?= cargo
TARGET := $(shell $(CARGO) metadata --format-version 1 --no-deps 2>/dev/null | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
T ?= 60
RUNS ?= 5
SEEDS ?= 200000
ROW ?=
EDGES ?= 1000000
SECONDS_EACH ?= 20
# One set for everything that is built for tests, so that nothing is built twice.
FEATURES := --features frontier-gateway/testing,frontier-ops/testing,frontier-queues/testing,frontier-queues/kafka,frontier-sdk/testing
FUZZ_TARGETS = $(notdir $(basename $(wildcard fuzz/fuzz_targets/*.rs)))

.PHONY: help run run-cluster run-pipeline build test check fmt clippy lean unit doc examples crd e2e-operator fuzz bench bench-cluster bench-queues bench-smoke soak kube e2e-kube e2e-kind kube-images charts clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Start the gateway with a demo service and edges, and show what happens until Ctrl-C
	@echo "Building the gateway and the demo (a few minutes the first time, seconds afterwards) …"
	@$(CARGO) build --locked --profile quick -p frontier-gateway -p frontier-demo --no-default-features
	@$(TARGET)/quick/frontier-demo --gateway-binary $(TARGET)/quick/frontier

run-cluster: ## Start two gateways, the registry, a service and edges; kill a gateway and show that calls go on
	@echo "Building the gateway, the registry and the show (a few minutes the first time, seconds afterwards) …"
	@$(CARGO) build --locked --profile quick -p frontier-gateway -p frontier-atlas -p frontier-cluster-show --no-default-features
	@$(TARGET)/quick/frontier-cluster-show --gateway-binary $(TARGET)/quick/frontier --atlas-binary $(TARGET)/quick/frontlas

run-pipeline: ## Edges publish through the gateway into a real broker (nats-server or redis-server), and a consumer prints it
	@echo "Building the gateway and the pipeline (a few minutes the first time, seconds afterwards) …"
	@$(CARGO) build --locked --profile quick -p frontier-gateway -p frontier-pipeline --no-default-features
	@$(TARGET)/quick/frontier-pipeline --gateway-binary $(TARGET)/quick/frontier

build: ## Build the release binaries
	$(CARGO) build --locked --release -p frontier-gateway -p frontier-atlas
	@! grep -qa 'fault point:' $(TARGET)/release/frontier || { echo "the release binary contains fault points"; exit 1; }

test: check unit doc examples bench-smoke kube ## Everything CI runs

check: fmt clippy lean ## Formatting and lints, warnings denied, and whether `make run` would compile

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --locked --workspace --all-targets $(FEATURES),frontier-e2e/kube -- -D warnings
	@! $(CARGO) tree --locked --workspace -i ring 2>/dev/null | grep -q . || { echo "ring is linked: there must be one crypto provider"; exit 1; }

# What `make run` leaves out must not be missed. Checked and not built: that shares what clippy has compiled, and of the profile itself
# only numbers differ.
lean:
	$(CARGO) check --locked -p frontier-gateway -p frontier-atlas -p frontier-demo --no-default-features

unit:
	$(CARGO) build --locked --workspace $(FEATURES)
	FRONTIER_BIN=$(TARGET)/debug/frontier FRONTLAS_BIN=$(TARGET)/debug/frontlas $(CARGO) test --locked --workspace --all-targets $(FEATURES)

doc:
	$(CARGO) test --locked --workspace --doc $(FEATURES)
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

examples: ## Run the demo once (the tests of all examples are among the unit tests)
	$(CARGO) build --locked --workspace $(FEATURES)
	$(TARGET)/debug/frontier-demo --gateway-binary $(TARGET)/debug/frontier --once

fuzz: ## Run each fuzz target for T seconds (T=60)
	@command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	@for target in $(FUZZ_TARGETS); do echo "== $$target"; \
	  (cd fuzz && mkdir -p grown/$$target && $(CARGO) +nightly fuzz run --fuzz-dir . --all-features $$target grown/$$target corpus/$$target -- -max_total_time=$(T) -rss_limit_mb=2048) || exit 1; done

e2e-operator: ## The operator against a real API server (as root; e2e/kube/build makes it)
	e2e/kube/build
	e2e/kube/operator

crd: ## Generate config/crd, deploy/install.yaml and docs/operator-fields.md from the types of the operator
	@mkdir -p config/crd
	$(CARGO) build --locked -p frontier-operator
	$(TARGET)/debug/frontier-operator crd > config/crd/frontierclusters.frontier.singchia.io.yaml
	$(TARGET)/debug/frontier-operator reference > docs/operator-fields.md
	cat config/crd/*.yaml deploy/operator.yaml > deploy/install.yaml

bench: ## Print the table of speed and memory (ROW=name for one row, RUNS=n)
	bench/run.sh $(if $(ROW),--row $(ROW)) --runs $(RUNS)

bench-cluster: ## Print what the cluster's registry costs on a real Redis (EDGES=1000000 SECONDS_EACH=20)
	@command -v redis-server >/dev/null || ./.ci/install redis-server
	$(CARGO) build --locked --release -p frontier-bench -p frontier-atlas
	$(TARGET)/release/frontier-bench store --edges $(EDGES) --seconds $(SECONDS_EACH) --atlas-binary $(TARGET)/release/frontlas

bench-queues: ## Print what queues confirm in a second beside client libraries by themselves, on real brokers (ROW=kafka for one)
	$(CARGO) run --locked --profile quick -p frontier-queues --features testing,kafka --example rates -- $(ROW)

bench-smoke: ## Every row of the table once, for as long as it takes to see that it works
	bench/run.sh --quick

soak: ## Longer runs: the shard core's tests and SEEDS random lives of it in release mode, Go peers for a minute, clusters under long faults, brokers killed twenty times under load, then each fuzz target for T seconds
	$(CARGO) test --locked --release -p frontier-gateway --features testing --test sim_core
	SIM_SEEDS=$(SEEDS) $(CARGO) test --locked --release -p frontier-gateway --features testing --test sim_seeds
	FRONTIER_SOAK_SECONDS=60 $(CARGO) test --locked -p frontier-e2e --features frontier-sdk/testing --test go_peers -- everybody
	CLUSTER_SEEDS=20000 $(CARGO) test --locked -p frontier-e2e $(FEATURES) --test cluster_sim
	$(CARGO) build --locked -p frontier-gateway -p frontier-atlas --bins $(FEATURES)
	CLUSTER_SOAK=3 FRONTIER_BIN=$(TARGET)/debug/frontier FRONTLAS_BIN=$(TARGET)/debug/frontlas $(CARGO) test --locked -p frontier-e2e $(FEATURES) --test cluster
	FRONTIER_SOAK_KILLS=20 $(CARGO) test --locked --workspace $(FEATURES) --test brokers survives_kills
	$(MAKE) fuzz T=$(T)

# What the scenarios on Kubernetes need: all images from debug binaries.
kube-images:
	$(CARGO) build --locked --workspace --bins $(FEATURES)
	BUILT=$(TARGET)/debug e2e/kube/images/build

e2e-kube: ## Every scenario on a real Kubernetes of its own, without Docker (as root; PART=name for some)
	e2e/kube/build
	@$(MAKE) kube-images
	e2e/kube/test $(PART)

# A developer's machine may lack what it needs; in CI nothing may.
kube: ## Charts, the operator and every scenario on a real Kubernetes, as far as this machine can (as root)
	@if e2e/kube/needs || [ "$$CI" = true ]; then $(MAKE) charts e2e-operator e2e-kube; \
	else echo "!!!!! SKIPPED: nothing is tested on Kubernetes !!!!!" >&2; fi

e2e-kind: ## The same scenarios on kind
	e2e/kube/build
	@$(MAKE) kube-images
	kind get clusters | grep -qx frontier-e2e || kind create cluster --name frontier-e2e --wait 120s
	KIND=frontier-e2e e2e/kube/load $(TARGET)/kube/images/*.tar
	kind get kubeconfig --name frontier-e2e > $(TARGET)/kube/kind.kubeconfig
	KUBECONFIG=$(TARGET)/kube/kind.kubeconfig e2e/kube/test $(PART)
	kind delete cluster --name frontier-e2e

charts: ## Lint the charts, and compare what they render with charts/*/testdata (UPDATE=1 writes it anew)
	e2e/kube/build
	charts/check

clean: ## Remove what was built
	$(CARGO) clean
