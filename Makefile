# Everything from a bare machine: `make demo`, `make widths`, `make test`, `make test-all`, `make mutants`,
# `make fuzz`, `make bench`.
# Each makes the environment in $(VENV) first, and makes it anew when pyproject.toml, PYTHON or JAX has changed.

PYTHON ?= python3
VENV ?= .venv
# More requirements for pip, to pin JAX: make test JAX='jax==0.10.2 jaxlib==0.10.2'
JAX ?=

.PHONY: demo widths test test-all mutants fuzz crash bench bench-budgets bench-gpu lint format install clean again
.DELETE_ON_ERROR:
.DEFAULT_GOAL := test

BIN := $(VENV)/bin
# Written last, once all is installed. It holds what the environment was made for.
DONE := $(VENV)/.tangax-done
# Written first: the folder is ours to empty.
OURS := $(VENV)/.tangax-venv
REQUEST := PYTHON=$(PYTHON) JAX=$(strip $(JAX))
ifneq ($(REQUEST),$(shell cat '$(DONE)' 2>/dev/null))
AGAIN := again
endif

demo: $(DONE)
	$(BIN)/python examples/digits.py

# Kernels of ever wider networks, and their limit.
widths: $(DONE)
	$(BIN)/python examples/infinite_width.py

# Half of a test's time is compiling, so tests/conftest.py has XLA optimise little; `OPTIMISED` run as
# users compile. `worksteal`: tests that share a case stay in one process, which has it compiled.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal
OPTIMISED := tests/engine/test_structured.py tests/project/test_examples_of_the_field.py README.md

test: lint
	$(PYTEST) $(addprefix --ignore=,$(OPTIMISED))
	XLA_FLAGS= $(PYTEST) $(OPTIMISED)

test-all: lint
	$(PYTEST) --full $(addprefix --ignore=,$(OPTIMISED))
	XLA_FLAGS= $(PYTEST) --full $(OPTIMISED)

# A thousand random programs, 500 in each of two processes.
fuzz: $(DONE)
	TANGAX_PROGRAMS=500 $(BIN)/python -m pytest -n 2 tests/engine/test_programs.py

# Sixty deliberate mistakes in the source, each of which the tests must notice.
mutants: $(DONE)
	$(BIN)/python tests/mutants.py

# Runs that are killed twenty times, and the memory that runs take.
crash: $(DONE)
	$(BIN)/python -m pytest --crash -m crash

# Against the peers, whose environments it makes in benchmarks/: make bench ONLY=gpt for some rows.
ONLY ?=
bench: $(DONE)
	$(BIN)/python benchmarks/bench.py $(if $(ONLY),--only '$(ONLY)')

# Kernels under budgets over three decades, on the JAX of $(VENV): another one's rows stay.
bench-budgets: $(DONE)
	JAX_PLATFORMS=cpu $(BIN)/python benchmarks/budgets.py $(if $(ONLY),'$(ONLY)')

# On the JAX that $(PYTHON) has: an accelerator's is installed by its own means.
bench-gpu:
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py

lint: $(DONE)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(DONE)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

install: $(DONE)

clean:
	@if [ -e '$(OURS)' ]; then rm -rf '$(VENV)'; fi
	rm -rf .pytest_cache .ruff_cache .hypothesis build dist

# Always from an empty folder: pip takes a package that an interrupted install left half-written for installed.
# The environment is made without pip, and filled by the pip of $(PYTHON), because Debian's
# python3 has no ensurepip; then pip is put in too, so that `pip` in an activated environment is its own.
$(DONE): pyproject.toml $(AGAIN)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tangax needs Python 3.11 or newer; set PYTHON")'
	@if [ -e '$(VENV)' ] && [ ! -e '$(OURS)' ]; then \
	  echo "$(VENV) was not made by this Makefile: remove it, or choose another VENV" >&2; exit 1; fi
	@rm -f '$(DONE)' && mkdir -p '$(VENV)' && touch '$(OURS)'
	@find '$(VENV)' -mindepth 1 -maxdepth 1 ! -name '$(notdir $(OURS))' -exec rm -rf {} +
	@echo 'Installing into $(VENV): a minute or two'
	$(PYTHON) -m venv --without-pip '$(VENV)'
	$(PYTHON) -m pip --python '$(BIN)/python' install -qq --no-input pip --editable '.[test]' $(JAX)
	@echo '$(REQUEST)' > '$(DONE)'
