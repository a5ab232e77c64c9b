# Everything runs in $(VENV), which the first call creates. `make` alone lists the targets.
#
#   make test ARGS="-k bank"       hand arguments to the command behind a target (test, demo, bench)
#   make test PYTHON=python3.12    another interpreter; takes effect when $(VENV) is created
#   make test CONSTRAINTS=         newest versions that pyproject.toml allows instead of the locked ones

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
EXTRAS ?= dev,docs,download,eval,export,hub,train,web
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_OUT := outputs/demo

.DEFAULT_GOAL := help
.PHONY: help install demo test coverage lint format types types-of-code types-of-tests docs notebooks gallery check wheel check-wheel bench speed clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## create the environment and install i2vpp into it, editable

$(STAMP): pyproject.toml setup.py i2vpp/__init__.py $(CONSTRAINTS)
	@echo "Installing i2vpp and PyTorch into $(VENV); the first time this takes a few minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[$(EXTRAS)]"
	@touch $@

demo: $(STAMP)  ## segment the shipped clip; results go to outputs/demo
	@$(BIN)/i2vpp demo -o $(DEMO_OUT) $(ARGS)

test: $(STAMP)  ## run the tests
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

coverage: $(STAMP)  ## run the tests, and say which lines they ran; build/coverage shows them
	@$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term --cov-report=html $(ARGS)

lint: $(STAMP)  ## ruff: rules and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP)  ## let ruff fix what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: types-of-code types-of-tests  ## mypy, strict for the code, less so for the tests

types-of-code: $(STAMP)
	@$(BIN)/mypy

types-of-tests: $(STAMP)
	@$(BIN)/mypy --config-file tests/mypy.ini

docs: $(STAMP)  ## build the documentation's site into build/site; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict -f docs/mkdocs.yml
	@echo build/site/index.html

notebooks: $(STAMP)  ## execute the notebooks of examples/ and keep their outputs
	@$(BIN)/python tools/run_notebooks.py $(ARGS)

gallery: $(STAMP)  ## make the pictures of docs/gallery.md anew
	@$(BIN)/python tools/make_gallery.py $(ARGS)

check: lint types test  ## lint, types and test

wheel: $(STAMP)  ## build the wheel into dist/
	@rm -rf build/lib build/bdist* dist
	@$(BIN)/python -m build --quiet --wheel .
	@ls dist/*.whl

check-wheel: wheel  ## install that wheel into a new environment elsewhere and use it
	@PYTHON=$(BIN)/python tools/clean_install.sh

bench: $(STAMP)  ## measure speed and memory
	@$(BIN)/python tools/benchmark.py $(ARGS)

speed: $(STAMP)  ## measure the table of speeds on this CPU and write it into README.md and docs/benchmark.md
	@$(BIN)/python tools/benchmark.py --config i2vpp-infer,i2vpp-512,i2vpp-256 --dtype float32,bfloat16 --device cpu \
		--frames 3 --json docs/performance/cpu.json $(ARGS)
	@$(BIN)/python tools/speed_table.py docs/performance/cpu.json

clean:  ## remove what was built, not the environment
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache $(DEMO_OUT)
	@find i2vpp training test_pvs tools sav_dataset tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove the environment as well
	@rm -rf $(VENV)
