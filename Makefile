# Needs git, make, Python 3.11 or newer, and a package index. uv is used where it is, else fetched into .uv.
.PHONY: help setup check audit test torture soak sdk fuzz run demo bench corpus lock
.DEFAULT_GOAL := help

export UV_LINK_MODE ?= copy
# The certificates of this machine, as pip does: an index may be behind a company's own authority.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt /etc/ssl/cert.pem /etc/pki/tls/certs/ca-bundle.crt),)
export UV_SYSTEM_CERTS ?= true
endif
ifeq ($(shell test -w "$$HOME" && echo yes),)
export UV_CACHE_DIR ?= $(CURDIR)/.uv/cache
endif
UV := $(or $(shell command -v uv),.uv/bin/uv)
IN := .venv/bin

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: .venv/.ready ## everything into .venv; done by the other commands, too

.venv/.ready: requirements.txt pyproject.toml tests/plugin/pyproject.toml Makefile | $(UV)
	$(UV) venv --quiet --allow-existing --python '>=3.11' .venv
	$(UV) pip sync --quiet --python .venv requirements.txt
	$(UV) pip install --quiet --python .venv --no-deps --editable . --editable tests/plugin
	touch $@

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv

.tools/.ready: requirements-tools.txt Makefile | $(UV)
	$(UV) venv --quiet --allow-existing --python '>=3.11' .tools
	$(UV) pip sync --quiet --python .tools requirements-tools.txt
	touch $@

check: setup .tools/.ready ## format, lint, types, import directions, known vulnerabilities (offline: says so)
	$(IN)/ruff format --check --quiet
	$(IN)/ruff check --quiet
	$(IN)/mypy
	$(IN)/lint-imports --no-logo
	@$(IN)/python -m checks.dependencies --offline-ok

audit: setup .tools/.ready ## known vulnerabilities among the dependencies; fails where they cannot be looked up
	@$(IN)/python -m checks.dependencies

test: setup ## all tests; ARGS='-k name' for some
	$(IN)/pytest --numprocesses 3 $(ARGS)

torture: setup ## processes, Postgres, disk and network fail at work (docs/reliability.md); ARGS='--long -k cancel'; takes minutes
	$(IN)/pytest tests/torture -s --seeds 10 --away-seconds 60 --ignore tests/torture/test_soak.py $(ARGS)

soak: setup ## how soon work starts while a snapshot is held open; 30 minutes, ARGS='--minutes 5'
	$(IN)/pytest tests/torture/test_soak.py -s --long $(ARGS)

sdk: setup ## official clients of several majors and languages into .sdk, each leads batches through a life (docs/dialects.md)
	$(IN)/pytest tests/sdk --sdk -s $(ARGS)

fuzz: setup .tools/.ready ## any input on any route (docs/reliability.md); ARGS='--fuzz-seconds 60'; takes an hour
	$(IN)/pytest tests/api/test_fuzz.py tests/api/test_published_cases.py tests/fuzz -rP --numprocesses 2 \
		--hypothesis-profile fuzz --hypothesis-seed 1 --schemathesis .tools/bin/schemathesis $(ARGS)

run: setup ## serve on an embedded Postgres; ARGS='--port 0'
	$(IN)/gristmill serve $(ARGS)

demo: setup ## the whole way, with a small model on this machine; ARGS=--exit ends after the table
	$(IN)/gristmill demo $(ARGS)

bench: setup ## how fast it is on this machine (docs/performance.md); takes minutes
	$(IN)/python -m benchmarks $(ARGS)

corpus: setup ## real documents into .corpus; ARGS=measure reads them, ARGS=run takes them through a server (docs/documents.md)
	$(IN)/python -m benchmarks.corpus $(ARGS)

lock: | $(UV) ## the newest versions that fit together, into the requirements files
	$(UV) lock --quiet --upgrade
	$(UV) export $(EXPORT) --all-groups --all-extras --output-file requirements.txt
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--output-file requirements-tools.txt requirements-tools.in
	$(UV) export $(EXPORT) --no-default-groups --extra documents --extra mcp --extra s3 --output-file requirements-service.txt

EXPORT := --quiet --frozen --format requirements.txt --no-emit-workspace --no-emit-package gristmill-testmill --no-header --no-annotate
