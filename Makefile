# `make demo`, `make test`, `make test-fast`, `make lint`, `make docs`: each makes .venv and installs into it when
# needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast lint docs clean

$(VENV)/.demo: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ $(VENV)/.demo

$(VENV)/.docs: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/interneg demo

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope

# Without the tests marked `slow`: an answer while one works.
test-fast: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope -m "not slow"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation as a site that opens from its folder: site/index.html.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html"

clean:
	rm -rf $(VENV) site build dist *.egg-info
