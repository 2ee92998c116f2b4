# Each target sets up what it needs from nothing. `make demo` and `make test` are the two to know.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes of one thread each: most of a unit test is spent waiting or in Python.
QUICK_TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n 2 --dist loadfile

.PHONY: setup demo test test-quick check constraints clean

setup: $(VENV)/.installed  ## make .venv with the tested versions, so that .venv/bin/kinodex works

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kinodex needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up $(VENV) (the first time this fetches PyTorch: some minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup  ## index the small library we made, ask it questions, draw a contact sheet
	@$(BIN)/python -m serve.demo

test: setup  ## every test; the quick ones first
	@$(QUICK_TESTS)
	@$(BIN)/python -m pytest -q -m slow

test-quick: setup  ## the unit tests alone: under a minute
	@$(QUICK_TESTS)

check: setup  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy ingest encoders temporal serve

constraints: setup  ## write the installed versions down as the tested ones
	@$(BIN)/python -m pip freeze --exclude-editable | grep -v '^-e ' > constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
