# The commands of this project; `make` alone lists them.
# ARGS goes to the program behind a target: make up ARGS="--fresh --workers 2"

ARGS ?=
CARGO ?= cargo
BINS := -p onsale -p onsale-ingress -p onsale-workers

.DEFAULT_GOAL := help
.PHONY: help preflight tools build up demo down test simulate lint k6-smoke bench bench-money bench-queue openapi

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

preflight: # what this machine lacks, and the command that mends it
	@deploy/tools/preflight.sh

tools: preflight ## fetch the pinned Postgres and nats-server into .tools
	@deploy/tools/fetch.sh postgres nats-server

build: tools
	$(CARGO) build --release $(BINS)

up: build ## everything on this machine, in the foreground, until Ctrl-C
	@exec target/release/onsale up $(ARGS)

demo: build ## play the whole journey against the running system
	@exec target/release/onsale demo $(ARGS)

down: ## stop the running system
	@exec target/release/onsale down $(ARGS)

bench: build ## measure holds against the direct designs
	@exec target/release/onsale bench seats $(ARGS)

bench-money: build ## measure charges and payments against row locks
	@exec target/release/onsale bench money $(ARGS)

bench-queue: build ## measure the waiting room with a million in it
	@exec target/release/onsale bench queue $(ARGS)

test: tools ## all tests, on real servers
	@# Examples, too: of one that has tests of its own `cargo test` builds nothing else.
	$(CARGO) build --workspace --bins --examples --features onsale-testkit/api
	target/debug/with-servers -- $(CARGO) test --workspace --no-fail-fast $(ARGS)
	$(CARGO) test --workspace --features onsale-workers/sabotage --test simulation sabotage

simulate: export ONSALE_SIM_SEEDS ?= 100000
simulate: ## 100,000 seeded histories of the partition runtime, and some of the waiting room
	$(CARGO) test --release -p onsale-workers --test simulation every_history -- --nocapture
	ONSALE_SIM_SEEDS=$$(($(ONSALE_SIM_SEEDS) / 50)) $(CARGO) test --release -p onsale-workers \
		--test admission_simulation -- --nocapture

openapi: ## write the checked-in descriptions of the HTTP API
	$(CARGO) build -p onsale --bin onsale
	target/debug/onsale openapi > target/openapi.json
	target/debug/onsale openapi --postman > target/postman.json
	@mv target/openapi.json ingress/openapi.json
	@mv target/postman.json deploy/onsale.postman_collection.json

lint: ## format and clippy, as CI does
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

k6-smoke: ## load the running system with k6: the journey, orders through the gateway, and the hot seat
	@deploy/tools/k6.sh run k6/smoke.js
	@deploy/tools/k6.sh run k6/orders.js
	@deploy/tools/k6.sh run k6/hot_seat.js
