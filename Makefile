# `make demo` and `make test` are the two commands of README.md. Each makes .venv on first use.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test check compat clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train, export, quantize, compare, generate: the whole chain in a few minutes"
	@echo "make test    the tests"
	@echo "make check   lint, types and all tests, the slow ones too"
	@echo "make compat  the same bundle in other engines: sets each up under .compat/, and prints the table"

demo: .venv/installed
	$(BIN)/python -m train run stories-tiny --out runs/demo --overwrite
	$(BIN)/python -m export run runs/demo/checkpoint --out bundles/demo --text runs/demo/held_out.txt
	@echo; echo "A story by the int8 model:"; echo
	@$(BIN)/python -m runtime generate bundles/demo --precision int8 --temperature 0.6 --seed 3
	@echo; echo "Open the app:  $(BIN)/python -m app run bundles/demo"

test: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow and not gpu and not peers"

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not gpu and not peers"

compat: .venv/installed-dev
	@$(BIN)/python -m tests.compat.run

# A requirements file that changed is installed again; a half-made environment never counts as made.
.venv/installed: requirements.txt requirements-runtime.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "error: SmolText needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-dev: .venv/installed requirements-extras.txt requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf .venv .compat runs bundles .pytest_cache .mypy_cache .ruff_cache
