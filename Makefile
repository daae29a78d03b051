# Everything a newcomer types. Each target works from a fresh machine and can be run again.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help deps build up health test-create-order logs down clean test bench chaos certs-rotate compose-up compose-down compose-test kubernetes-check

# rustup's default place, for shells that were open before it was installed.
export PATH := $(PATH):$(HOME)/.cargo/bin
HOLDFAST := $(or $(CARGO_TARGET_DIR),target)/release/holdfast

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

deps: ## Install what is missing on this machine (compiler, Java, Maven)
	@deploy/native/install.sh

# Started by root, the programs run as another user, who must be able to read them whatever the umask is.
build: deps ## Build everything that runs, optimised
	umask 022 && cargo build --release --workspace --exclude holdfast-e2e --exclude holdfast-simulation --exclude holdfast-testkit --locked

up: build ## Start everything and wait until it is ready
	$(HOLDFAST) up

health: ## One line per component; fails if one is not ready
	@$(HOLDFAST) status

test-create-order: ## Create an order and follow it to its end
	@HOLDFAST=$(HOLDFAST) scripts/test-create-order.sh

logs: ## Follow all logs; make logs S=order follows one
	@$(HOLDFAST) logs -f $(S)

down: ## Stop everything
	@$(HOLDFAST) down

clean: ## Stop everything and delete its data
	@$(HOLDFAST) down --delete-data --yes

test: deps ## Everything CI runs
	@scripts/test.sh

chaos: build ## Kill parts of a stack of its own under load and judge what held; ARGS="--scenario pause-kafka"
	@HOLDFAST=$(HOLDFAST) chaos/run.sh $(ARGS)

certs-rotate: ## Renew all certificates; make certs-rotate ARGS=--ca replaces the authority
	@HOLDFAST=$(HOLDFAST) certs/rotate.sh $(ARGS)

bench: build ## Measure a running stack (starts one if there is none)
	$(HOLDFAST) up
	$(HOLDFAST) bench $(ARGS)

compose-up: ## Start the same system in containers (docker with compose 2) and wait until it is ready
	docker compose up --detach --build --wait
	@echo 'The console is at http://127.0.0.1:8090, for whom docker compose exec console /holdfast-console ticket --author "$$USER" gives an address'
	@echo 'The API is at http://127.0.0.1:8080. A token: docker compose run --rm cli token --user alice'

compose-down: ## Stop the containers; ARGS=--volumes deletes their data
	docker compose down $(ARGS)

compose-test: ## Really run compose.yml: kills, pauses, cuts off and restarts containers under load
	@deploy/compose/test.sh

kubernetes-check: ## Check deploy/kubernetes without a cluster; ARGS=--accept takes new snapshots
	@scripts/kubernetes.sh $(ARGS)
