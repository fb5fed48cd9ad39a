# Two commands: `make demo` tunes the embedded data set, `make test` runs the quick tests.
# Both make .venv first and install this checkout into it, with the tested versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

DEMOS := cremad iemocap kinetics_sounds nvgesture sarcasm twitter15 vggsound

.PHONY: demo demos test test-all test-slow lint types audit install clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python -m rayjobs.tune --dataset digits

demos: $(INSTALLED)
	set -e; for name in $(DEMOS); do $(BIN)/python -m rayjobs.tune --dataset $$name --demo; done

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

test-all: test test-slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

audit: $(INSTALLED)
	$(BIN)/python .ci/audit.py

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache
