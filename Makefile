# make demo: one answer from the built-in demo model · make test: the whole suite · make check: ruff and mypy ·
# make cluster: Ray beside it, for `vllava batch --ray` and its tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIP := vllava_cli/demo/clips/red-circle-moves-left.mp4

.PHONY: demo test check cluster man clean

demo: $(VENV)/.runtime
	@$(BIN)/vllava ask --model demo $(CLIP) "What happens in this video?"

# Two files at a time, a thread each: on two cores that takes half as long. In their order: the slowest are not the last.
test: $(VENV)/.development
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.development
	scripts/check

cluster: $(VENV)/.cluster

man: $(VENV)/.development
	$(BIN)/python scripts/man

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vllava needs Python 3.11 or newer: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing vllava into $(VENV), once: this takes some minutes." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[adapter,dev,evaluate,serve]'
	@touch $@

# With Ray, whose tests are skipped without it.
$(VENV)/.cluster: $(VENV)/.development
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[adapter,dev,evaluate,ray,serve]'
	@touch $@
