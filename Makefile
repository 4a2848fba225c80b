# tpw-exporter: everything a checkout can do. Two commands matter to a newcomer:
#
#   make demo    the exporter over simulated GPUs and servers; needs no hardware
#   make test    linters, types and the whole test suite, real servers included
#
# All of it stays inside the checkout (.venv, .cache, build). Nothing needs root. `make help` lists the rest.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The interpreter the environment is made with: the first of these that is Python 3.11 or newer. Choose another one with
# `make PYTHON=/path/to/python3.13 VENV=.venv-3.13 test`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
CACHE := .cache
# The built wheel, unpacked. Tests import it through PYTHONPATH, before the editable installation.
SITE := build/site

PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
SOURCES := $(shell find exporter deploy/runbooks -name '*.py' -o -name py.typed -o -name '*.md') pyproject.toml README.md LICENSE
CC ?= cc
ARGS ?=
PYTEST_ARGS ?=
# Two workers; the tests of a file share one, because they share fixtures. PYTEST_ARGS='-n 0' runs all in one process.
PARALLEL := -n 2 --dist loadfile

export PYTHONUTF8 := 1

##@ Use

.PHONY: demo
demo: $(VENV)/.runtime ## The real pipeline over simulated GPUs and a simulated server (ARGS='--help' for its options)
	@exec $(BIN)/tpw-exporter demo $(ARGS)

.PHONY: run
run: $(VENV)/.runtime ## The daemon on this machine (ARGS='--config.file=...')
	@exec $(BIN)/tpw-exporter run --state.dir=$(CACHE)/state $(ARGS)

##@ Test

.PHONY: test
test: compiler $(VENV)/.dev lint $(SITE)/.built realparts ## Linters, types, and the whole suite against the built wheel and real servers
	PYTHONPATH=$(SITE) TPW_TEST_WHEEL=$(SITE) $(BIN)/pytest $(PARALLEL) -m 'not heavy and not device' $(PYTEST_ARGS)

.PHONY: test-unit
test-unit: $(VENV)/.dev ## Only the tests that need no download, with a quarter of the examples (a minute)
	TPW_EXAMPLES=0.25 $(BIN)/pytest $(PARALLEL) -m 'not e2e and not rules and not heavy and not device' $(PYTEST_ARGS)

.PHONY: test-rules
test-rules: $(VENV)/.dev ## Only what runs promtool: recording rules, alerts, metric pages (a minute)
	$(BIN)/pytest $(PARALLEL) tests/unit -m rules $(PYTEST_ARGS)

.PHONY: test-heavy
test-heavy: $(VENV)/.dev $(SITE)/.built ## Tests that need a large download (vLLM on the CPU, 2.3 GB) or a long build (Kubernetes, 10 minutes)
	PYTHONPATH=$(SITE) TPW_TEST_WHEEL=$(SITE) $(BIN)/pytest -m 'heavy and not device' $(PYTEST_ARGS)

.PHONY: test-device
test-device: $(VENV)/.dev $(SITE)/.built ## Tests that need a real accelerator
	PYTHONPATH=$(SITE) TPW_TEST_WHEEL=$(SITE) $(BIN)/pytest -m 'device' $(PYTEST_ARGS)

.PHONY: test-image
test-image: $(VENV)/.dev ## Build the Dockerfile without Docker and run the result (root, a minute and a half)
	$(BIN)/pytest tests/e2e/test_image.py -m heavy $(PYTEST_ARGS)

.PHONY: bench
bench: $(VENV)/.dev $(SITE)/.built compiler ## Cost of the daemon: CPU, memory, latency (ARGS='--help')
	PYTHONPATH=$(SITE):tests $(BIN)/python -m bench $(ARGS)

.PHONY: conformance
conformance: $(VENV)/.dev ## Real servers: usage, their counters and ours, into docs/servers.md (2.3 GB; ARGS='llamacpp')
	PYTHONPATH=exporter:tests $(BIN)/python -m conformance --write docs/servers.md $(ARGS)

.PHONY: chaos
chaos: $(VENV)/.dev $(SITE)/.built compiler ## The real daemon under seeded faults for 10 minutes (ARGS='--seed 7 --seconds 60')
	PYTHONPATH=$(SITE):tests $(BIN)/python -m chaos $(ARGS)

.PHONY: soak
soak: $(VENV)/.dev ## A simulated year of 8 GPUs and 8 servers in the real daemon (ARGS='--days 30')
	PYTHONPATH=exporter:tests $(BIN)/python -m chaos.soak $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.dev ## The fuzz tests with 20,000 examples each instead of 100 (EXAMPLES=50 runs 5,000)
	TPW_EXAMPLES=$(or $(EXAMPLES),200) $(BIN)/pytest -n 2 tests/fuzz $(PYTEST_ARGS)

.PHONY: fuzz-guided
fuzz-guided: $(VENV)/.dev ## Readers under atheris, guided by coverage (TARGET=page, head or configuration; SECONDS=60)
	@[[ -d $(CACHE)/atheris ]] || $(PIP) install --no-deps --target $(CACHE)/atheris atheris==3.0.0
	PYTHONPATH=exporter:tests:$(CACHE)/atheris $(BIN)/python -m fuzz.guided $(or $(TARGET),page) \
	  -max_total_time=$(or $(SECONDS),60) -max_len=65536 $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## ruff and mypy --strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.PHONY: format
format: $(VENV)/.dev ## Format the sources
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: realparts
realparts: $(VENV)/.dev ## Fetch the real servers of the tests into .cache/realparts
	@PYTHONPATH=tests $(BIN)/python -m support.realparts fetch prometheus3 prometheus2 llama

.PHONY: compiler
compiler:
	@command -v $(CC) >/dev/null || { \
	  echo "No C compiler ($(CC)): the stand-in for the NVIDIA library cannot be built and its tests are skipped."; \
	  echo "Install one (Debian: apt install gcc libc6-dev) or name it with CC=..."; \
	  [[ "$${CI:-}" != true ]] || exit 1; } >&2

##@ Generate

.PHONY: generate
generate: dashboards docs kubernetes ## Rewrite every generated file

.PHONY: dashboards
dashboards: $(VENV)/.dev ## Dashboards, recording rules and alerts, from grafana/
	$(BIN)/python -m grafana.build

.PHONY: docs
docs: $(VENV)/.dev ## Reference pages of metrics and configuration, and the configuration's JSON Schema
	$(BIN)/python -m tpw.config.reference --write docs
	$(BIN)/python -m tpw.exposition.reference docs/metrics.md
	$(BIN)/python -m tpw.tokens.reference --write docs/servers.md

.PHONY: kubernetes
kubernetes: $(VENV)/.dev ## Schema and README of the Helm chart, and deploy/kubernetes, rendered from it
	$(BIN)/python scripts/render_chart.py
	$(BIN)/python scripts/render_kubernetes.py

.PHONY: goldens
goldens: $(VENV)/.dev ## Rewrite the expected pages of tests/golden and tests/captures; review the diff (ONLY=one test file)
	UPDATE_GOLDEN=1 $(BIN)/pytest $(or $(ONLY),tests/unit) $(PYTEST_ARGS)

# What differs from the last commit, as one number.
CHANGES := { git diff HEAD; git ls-files -z --others --exclude-standard | xargs -0r sha256sum; } | sha256sum
.PHONY: check-generated
check-generated: $(VENV)/.dev ## Fails where `make generate` changes a file
	@before=$$($(CHANGES)); $(MAKE) generate; [[ "$$($(CHANGES))" == "$$before" ]] || { \
	  git status --short; echo "Generated files were not up to date: review and commit them." >&2; exit 1; }

# uv resolves for every supported Python and platform at once. The files name versions and hashes and no index.
LOCK := $(CACHE)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--custom-compile-command "make lock" --no-emit-index-url --no-emit-find-links
.PHONY: lock
lock: ## Resolve requirements/*.txt anew
	$(PYTHON) -m venv $(CACHE)/lock
	$(CACHE)/lock/bin/python -m pip --disable-pip-version-check -q install uv
	$(LOCK) pyproject.toml -o requirements/runtime.txt
	$(LOCK) pyproject.toml --extra auth --extra holidays -c requirements/runtime.txt -o requirements/image.txt
	$(LOCK) requirements/build.in -o requirements/build.txt
	$(LOCK) pyproject.toml --all-extras requirements/dev.in -c requirements/image.txt -c requirements/build.txt -o requirements/dev.txt

.PHONY: chart
chart: $(VENV)/.dev ## Pack the Helm chart with its rules and dashboards into dist/ (IMAGE=registry/name is its default image)
	@rm -rf build/chart && mkdir -p build/chart dist && cp -RL deploy/helm/tpw-exporter build/chart/
	@[[ -z "$(IMAGE)" ]] || sed -i 's|^  repository: .*|  repository: $(IMAGE)|' build/chart/tpw-exporter/values.yaml
	$(BIN)/python -c 'import helm_python; print(helm_python.package("build/chart/tpw-exporter", destination="dist"))'
	@PYTHONPATH=exporter $(BIN)/python -m grafana.publish dist/grafana.com

.PHONY: sbom
sbom: ## The packages of the image as a CycloneDX document in dist/, from their lock
	$(PYTHON) -m venv $(CACHE)/sbom
	$(CACHE)/sbom/bin/python -m pip --disable-pip-version-check -q install cyclonedx-bom
	@mkdir -p dist
	$(CACHE)/sbom/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON \
	  --output-file dist/tpw-exporter.cdx.json requirements/image.txt

##@ Housekeeping

.PHONY: wheel
wheel: $(SITE)/.built ## Build dist/*.whl

.PHONY: clean
clean: ## Remove build outputs; keeps .venv and the downloads
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -path ./$(CACHE) -prune -o -name __pycache__ -type d -print0 | xargs -0r rm -rf

.PHONY: distclean
distclean: clean ## Remove .venv and the downloads as well
	rm -rf $(VENV) $(CACHE)

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z][a-z-]*:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# --- files ---------------------------------------------------------------------------------------------------------

$(VENV)/.made:
	@[[ -n "$(PYTHON)" ]] || { echo "No Python 3.11 or newer found. Name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments (Debian: apt install python3-venv)." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Enough to run: the pinned requirements and the checkout itself, editable.
$(VENV)/.runtime: $(VENV)/.made requirements/runtime.txt requirements/build.txt pyproject.toml
	$(PIP) install --require-hashes -r requirements/runtime.txt -r requirements/build.txt
	$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# Built from the sources as they are and unpacked for the tests.
$(SITE)/.built: $(VENV)/.runtime $(SOURCES)
	@rm -rf $(SITE) build/wheel
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	$(PIP) install --no-deps --no-compile --target $(SITE) build/wheel/*.whl
	@mkdir -p dist && cp build/wheel/*.whl dist/
	@touch $@
