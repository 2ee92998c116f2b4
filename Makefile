# Each target first sets up what it needs. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes of one thread each, since tests mostly wait or run Python. A process that dies ends the run: pytest-xdist
# may wait for ever after it has replaced a process (https://github.com/pytest-dev/pytest-xdist/issues/1378).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --max-worker-restart 0
BUF := $(VENV)/buf/node_modules/.bin/buf
BUF_VERSION := 1.75.0
TSC := $(VENV)/console/node_modules/.bin/tsc
CONSOLE_PACKAGES := typescript@7.0.2 @bufbuild/protoc-gen-es@2.13.0 @bufbuild/protobuf@2.13.0 axe-core@4.14.1
# $(call GENERATE,FOLDER) writes the API's Python stubs and their types (mypy-protobuf) into FOLDER.
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos
define GENERATE
$(PROTOC) --python_out=$(1) --mypy_out=quiet:$(1) protos/kinodex/v1/*.proto
@$(PROTOC) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) protos/kinodex/v1/*_service.proto
endef

.PHONY: help setup demo demo-server test test-quick test-slow test-browser test-kafka test-clients kafka chaos bench check protos docs \
	check-protos check-console constraints lock sbom clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.installed  ## install kinodex into .venv with the tested versions of its dependencies: .venv/bin/kinodex

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kinodex needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up $(VENV) (the first time this fetches PyTorch: some minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## index a small library of six videos, ask it questions, draw a contact sheet of the answers
	@$(BIN)/python -m serve.demo

demo-server: demo  ## serve the demo's library, ask the server, upload a video, read its metrics, stop it
	@$(BIN)/python -m serve.demo.server

test: setup  ## run every test suite, the quick one first; fail at the end if any suite failed
	@failed=; \
	for suite in quick slow browser kafka clients; do \
		echo "make test-$$suite"; \
		$(MAKE) --no-print-directory test-$$suite || failed="$$failed test-$$suite"; \
	done; \
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

test-quick: setup  ## run the quick tests: under a minute
	@$(PYTEST) --dist worksteal -m "not slow and not clients and not kafka and not browser"

test-slow: setup  ## run the tests that take seconds each: real videos, real models, killed processes
	@$(PYTEST) --dist loadfile -m "slow and not kafka and not browser"  # a file stays in one process: its fixtures take seconds

test-kafka: setup  ## run the tests with Apache Kafka: $KAFKA_BOOTSTRAP_SERVERS, or a broker of their own (Java 17, Maven)
	@$(PYTEST) --dist loadfile -m "kafka and not browser"

test-browser: setup $(TSC)  ## run the console in Chromium (apt-get install chromium) against real servers
	@$(PYTEST) --dist loadfile --tb native -m browser  # Playwright runs tests in greenlets, where other reports may end pytest

test-clients: setup  ## run clients in grpcurl, Node and Go against a server; the first run fetches and builds them
	@$(BIN)/python -m pytest -q -m clients tests/clients

kafka: setup  ## run Apache Kafka on loopback until Ctrl-C, and print its address
	@$(BIN)/python tests/support/broker.py

chaos: setup  ## kill workers, servers and the broker under live streams, and compare with an undisturbed run: minutes
	@$(BIN)/python tests/chaos/chaos.py

bench: setup  ## measure every figure beside its reference; write benchmarks/results/DATE-COMMIT.json, .md and .png
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	@$(BIN)/python benchmarks/bench.py $(BENCH)

check: setup check-protos check-console  ## run ruff, mypy, buf and tsc, and check that the generated stubs match the protos
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy ingest encoders temporal serve

docs: setup  ## write the pages of docs/ that repeat the code: settings, metrics, errors, warnings
	@$(BIN)/python docs/generate.py

protos: setup  ## generate the Python stubs of protos/
	@$(call GENERATE,protos)

check-protos: setup $(BUF)  ## run buf, and check that the generated stubs match the protos
	@cd protos && ../$(BUF) lint && ../$(BUF) format --diff --exit-code
	@rm -rf $(VENV)/protos && mkdir -p $(VENV)/protos
	@$(call GENERATE,$(VENV)/protos)
	@for file in $(VENV)/protos/kinodex/v1/*; do \
		cmp --silent $$file protos/kinodex/v1/$${file##*/} || \
		{ echo "protos/kinodex/v1/$${file##*/} is stale: run make protos" >&2; exit 1; }; done

check-console: setup $(TSC)  ## check the types of the console's JavaScript; those of the API's JSON come from the protos
	@rm -rf $(VENV)/console/types && mkdir -p $(VENV)/console/types
	@PATH="$(CURDIR)/$(VENV)/console/node_modules/.bin:$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos \
		--es_out=$(VENV)/console/types --es_opt=json_types=true,target=ts protos/kinodex/v1/*.proto
	@$(TSC) --project serve/console/jsconfig.json

$(BUF):
	@command -v npm >/dev/null || { echo "make check needs npm, which installs buf" >&2; exit 1; }
	@npm install --silent --no-fund --no-audit --prefix $(VENV)/buf @bufbuild/buf@$(BUF_VERSION)

$(TSC):
	@command -v npm >/dev/null || { echo "make check needs npm, which installs TypeScript" >&2; exit 1; }
	@npm install --silent --no-fund --no-audit --prefix $(VENV)/console $(CONSOLE_PACKAGES)

constraints: setup  ## write the installed versions of all dependencies to constraints.txt
	@$(BIN)/python -m pip freeze --exclude-editable | grep -v '^-e ' > constraints.txt

LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --constraint constraints.txt --generate-hashes \
	--custom-compile-command 'make lock'
lock: setup  ## write the container's packages, each with its version and hashes: requirements.lock, requirements-build.lock
	@$(LOCK) --output-file requirements.lock pyproject.toml
	@echo 'setuptools>=77' | $(LOCK) --output-file requirements-build.lock -

ENVIRONMENT := $(VENV)
sbom: setup  ## write build/sbom.json (CycloneDX) of the packages in .venv; of another one: make sbom ENVIRONMENT=DIR
	@mkdir -p build
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json \
		$(ENVIRONMENT)/bin/python
	@echo "build/sbom.json"

clean:  ## remove .venv and what building, testing and checking left behind
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
