# Two commands: `make demo` tunes the embedded data set, `make test` runs the quick tests.
# Both make .venv first and install this checkout into it, with the tested versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MOTO := $(VENV)/moto/.installed

# A test process that crashes says where each of its threads was.
export PYTHONFAULTHANDLER := 1

DEMOS := cremad iemocap kinetics_sounds nvgesture sarcasm twitter15 vggsound

.PHONY: demo demos compare-demo test test-all test-slow lint types audit install clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(MOTO): tests/moto.txt $(INSTALLED)
	$(PYTHON) -m venv $(VENV)/moto
	$(VENV)/moto/bin/python -m pip install --quiet --requirement tests/moto.txt
	touch $@

demo: $(INSTALLED)
	$(BIN)/python -m rayjobs.tune --dataset digits --method joint --method iprm --method aug

demos: $(INSTALLED)
	set -e; for name in $(DEMOS); do $(BIN)/python -m rayjobs.tune --dataset $$name --demo; done

# A study of three methods over two of three folds; typed again it only reports, or goes on where it was interrupted.
compare-demo: $(INSTALLED)
	test -f results/compare-demo/study.yaml || $(BIN)/python -m rayjobs.compare new compare-demo --dataset digits \
	  --method iprm --method aug --reference-only --cv-folds 3 --folds 0,1 --trials 4 --seeds 2
	$(BIN)/python -m rayjobs.compare run compare-demo

test: $(INSTALLED) $(MOTO)
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --max-worker-restart 0 --dist loadfile

# Two processes, each of which takes the next file when it is done with one; tests/conftest.py puts the long ones first.
# One that crashes ends all: pytest would wait for ever for the tests it had.
test-slow: $(INSTALLED) $(MOTO)
	$(BIN)/python -m pytest -m slow --numprocesses 2 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder --durations 40

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
