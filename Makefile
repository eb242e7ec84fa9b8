# Two commands: `make book` (environment, chapters, site) and `make test` (environment, tests).
# Nothing is asked but Python 3.11 or newer; PYTHON names another one:  make book PYTHON=python3.12

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/installed
# this tree and no other, whatever else the environment knows
export PYTHONPATH := $(CURDIR)
# compiled once at install and then read: without, every start of Python compiles PyTorch, SciPy, ... anew
export PYTHONDONTWRITEBYTECODE :=

.PHONY: book test oldest colab install lock clean browser screenshots pdf address help

help:
	@echo "make book         environment, chapters that are stale (source, library, records, packages), site; prints the page to open"
	@echo "make test         environment, ruff, all tests (browser tests where Chromium is or can be installed)"
	@echo "make oldest       every chapter with the oldest versions that requirements.txt allows, in .venv-oldest"
	@echo "make colab        every chapter with the versions that Colab brings (tests/colab.txt), in .venv-colab"
	@echo "make install      the environment alone, in .venv"
	@echo "make lock         requirements.lock from requirements.txt"
	@echo "make screenshots  every page of the built site, light, dark and 390 px wide, into build/screenshots"
	@echo "make pdf          the book, built first, as one PDF beside its welcome page (needs Chromium)"
	@echo "make address      writes the address in _config.yml into the first cell of every chapter"
	@echo "make clean        removes build/ (executed chapters and site); data/cache and .venv stay"

book: $(STAMP)
	$(BIN)/python -m gfrlib book run
	$(BIN)/python -m gfrlib book check
	$(BIN)/python book/_ext/build_site.py

# Two processes with one thread each; a file's tests stay together (tests/conftest.py).
# PYTEST adds options:  make test PYTEST="-x -k site"
test: $(STAMP) browser
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest \
		-n $(WORKERS) --dist loadgroup --no-loadscope-reorder $(PYTEST)

# Colab and other notebooks bring their own versions: do the ranges hold at their lower end?
oldest: $(STAMP)
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	$(BIN)/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct -r requirements.txt
	.venv-oldest/bin/python -m gfrlib book run --out build/oldest

# ... and in Colab? It has Python 3.13:  make colab PYTHON=python3.13
colab: $(STAMP)
	test -x .venv-colab/bin/python || $(PYTHON) -m venv .venv-colab
	$(BIN)/uv pip install --quiet --python .venv-colab/bin/python -r tests/colab.txt
	.venv-colab/bin/python -m gfrlib book run --out build/as-colab

install: $(STAMP)

# uv installs the pinned versions in seconds; the stamp says that this was done for this lock and this pyproject.toml
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed, $(PYTHON) is older or is not there; name another: make book PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install -qq uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(STAMP)

lock: $(STAMP)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade requirements.txt -o requirements.lock

# Debian's Chromium, where it is missing and may be installed; elsewhere the browser tests are skipped and say so
browser: $(STAMP)
	@$(BIN)/python tests/find_chromium.py > /dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null \
		&& echo "Installing Chromium for the browser tests" \
		&& apt-get update -qq > /dev/null && apt-get install -y -qq chromium > /dev/null; } \
		|| echo "Chromium is missing and could not be installed here: the browser tests will be skipped"

screenshots: $(STAMP)
	$(BIN)/python tests/screenshots.py

# Chromium is asked for first: the chapters take minutes
pdf: $(STAMP)
	@$(BIN)/python tests/find_chromium.py > /dev/null || { echo "The PDF is printed by Chromium, which was not found;" \
		"install it, or name one in the variable CHROMIUM."; exit 2; }
	$(MAKE) book
	$(BIN)/python book/_ext/print_book.py

address: $(STAMP)
	$(BIN)/python -c "from gfrlib.book import chapters; print(*chapters.write_addresses())"

clean:
	rm -rf build
