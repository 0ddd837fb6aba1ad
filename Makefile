# make demo    images in, generated images out, on whatever this machine has (a few minutes on two cores)
# make test    lint, types and tests
# make test-page  the page in Chromium: accessibility, keyboard, pointing; part of `make test` where Chromium is installed
# make bench   the samplers timed beside Fastgram's own calls
# make setup   only .venv
# Each sets up .venv by itself; nothing needs root, nothing outside this folder is touched.

PYTHON ?= python3
BIN := .venv/bin
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

.PHONY: demo test test-page lint bench setup clean

demo: .venv/installed
	$(BIN)/python overnight_run.py

test: lint $(if $(CHROMIUM),.venv/page)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-page: .venv/installed $(if $(CHROMIUM),.venv/page)
	$(if $(CHROMIUM),$(BIN)/python -m pytest tests/report/test_browser.py,\
		@echo "skipped: Chromium is not in the PATH (Debian: apt-get install chromium)")

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python -m benchmarks.bench_sampling

setup: .venv/installed

.venv/installed: requirements.txt requirements-dev.txt
	@echo "Setting up .venv from requirements-dev.txt (about a minute, 6 GB on disk; once)"
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Imagegram needs Python >= 3.11: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install -q --disable-pip-version-check uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip install -q --compile-bytecode -r requirements-dev.txt
	@touch $@

.venv/page: requirements-page.txt .venv/installed
	VIRTUAL_ENV=.venv $(BIN)/uv pip install -q -r requirements-page.txt
	@touch $@

clean:
	rm -rf .venv data
