# Each target sets up what it needs from nothing. `make demo` and `make test` are the two to know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes of one thread each: most of a test is spent waiting or in Python. One that dies ends the run: replaced,
# it may leave the other waiting for ever (https://github.com/pytest-dev/pytest-xdist/issues/1378).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --max-worker-restart 0
QUICK_TESTS := $(PYTEST) --dist worksteal -m "not slow and not clients and not kafka"
SLOW_TESTS := $(PYTEST) --dist loadfile -m "slow and not kafka"  # files whole: what their tests share takes seconds to make
KAFKA_TESTS := $(PYTEST) --dist loadfile -m kafka
CLIENT_TESTS := $(BIN)/python -m pytest -q -m clients tests/clients

BUF := $(VENV)/buf/node_modules/.bin/buf
BUF_VERSION := 1.75.0
# Writes the stubs of the API into a folder; the services' have types of their own (mypy-protobuf).
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos
define GENERATE
$(PROTOC) --python_out=$(1) --mypy_out=quiet:$(1) protos/kinodex/v1/*.proto
@$(PROTOC) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) protos/kinodex/v1/*_service.proto
endef

.PHONY: setup demo demo-server test test-quick test-kafka test-clients kafka chaos bench check protos check-protos constraints clean

setup: $(VENV)/.installed  ## make .venv with the tested versions, so that .venv/bin/kinodex works

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kinodex needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up $(VENV) (the first time this fetches PyTorch: some minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## index the small library we made, ask it questions, draw a contact sheet
	@$(BIN)/python -m serve.demo

demo-server: demo  ## the same library behind a server: ask it, upload to it, read its metrics, stop it
	@$(BIN)/python -m serve.demo.server

test: setup  ## every test; the quick ones first
	@$(QUICK_TESTS)
	@$(SLOW_TESTS)
	@$(KAFKA_TESTS)
	@$(CLIENT_TESTS)

test-quick: setup  ## the unit tests alone: under a minute
	@$(QUICK_TESTS)

test-kafka: setup  ## the tests that need Apache Kafka: starts one (Java 17, and the first time Maven), or $KAFKA_BOOTSTRAP_SERVERS
	@$(KAFKA_TESTS)

test-clients: setup  ## grpcurl, Node and Go against a real server; the first time fetches and builds them: minutes
	@$(CLIENT_TESTS)

kafka: setup  ## run Apache Kafka on loopback until Ctrl-C: its address on standard output
	@$(BIN)/python tests/support/broker.py

chaos: setup  ## kill workers, servers and the broker under live streams; compare with an undisturbed run: some minutes
	@$(BIN)/python tests/chaos/chaos.py

bench: setup  ## every figure that has a reference, measured beside it: benchmarks/results/DATE-COMMIT.json, .md, .png
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	@$(BIN)/python benchmarks/bench.py $(BENCH)

check: setup check-protos  ## ruff, mypy, buf, and whether the generated stubs are those of the protos
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy ingest encoders temporal serve

protos: setup  ## write the Python stubs of protos/ anew
	@$(call GENERATE,protos)

check-protos: setup $(BUF)
	@cd protos && ../$(BUF) lint && ../$(BUF) format --diff --exit-code
	@rm -rf $(VENV)/protos && mkdir -p $(VENV)/protos
	@$(call GENERATE,$(VENV)/protos)
	@for file in $(VENV)/protos/kinodex/v1/*; do \
		cmp --silent $$file protos/kinodex/v1/$${file##*/} || \
		{ echo "protos/kinodex/v1/$${file##*/} is stale: run make protos" >&2; exit 1; }; done

$(BUF):
	@command -v npm >/dev/null || { echo "make check needs npm, which installs buf" >&2; exit 1; }
	@npm install --silent --no-fund --no-audit --prefix $(VENV)/buf @bufbuild/buf@$(BUF_VERSION)

constraints: setup  ## write the installed versions down as the tested ones
	@$(BIN)/python -m pip freeze --exclude-editable | grep -v '^-e ' > constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
