# `make help` lists the targets.  Everything goes into .venv, and the package there as
# an installed wheel: what is tested and shown is what users get.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IN_VENV := PATH="$(abspath $(BIN)):$$PATH"
JOBS ?= 2
SLOW := --timeout=600 -o faulthandler_timeout=300
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := setup.py pyproject.toml MANIFEST.in README.md \
	$(shell find src pysock -type f ! -name '*.py[co]' ! -name '*.so' ! -name '*.c')

# The works of bench-quick: of every table some.
QUICK := pingpong pipelined stream_many stream_1m libraries_64 libraries_16k libraries_4m \
	server_50x16 server_500x1 connections_1 connections_50 connections_500 idle_1000 \
	tls_pingpong tls_stream_1m udp_batched remote_output remote_true
comma := ,
space := $(subst ,, )

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow lint lint-style lint-types lint-workflows lint-c docs man
.PHONY: bench bench-quick bench-growth bench-instructions
.PHONY: build check-dist manylinux check-version release clean
.PHONY: test-pythons test-nogil test-windows test-aarch64 cross
.PHONY: test-faults test-threads test-memory fuzz soak coverage mutation

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.package ## stuck packets shown and cured, a server, a command, a comparison
	$(BIN)/pysock demo $(ARGS)

test: $(VENV)/.package $(VENV)/.tools ## run the tests against the installed wheel
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(ARGS)

# A script that cannot run here says so with status 77; where all must run that is a failure.
OR_CANNOT := || { [ $$? -eq 77 ] && [ "$$PYSOCK_REQUIRE_PEERS" != 1 ]; }

test-slow: $(VENV)/.package $(VENV)/.tools ## run what takes long, sanitizers and fuzzers too: 25 minutes
	$(BIN)/pytest -m slow -n $(JOBS) --dist worksteal $(SLOW) $(ARGS)
	ci/memory.sh $(OR_CANNOT)
	ci/threads.sh $(OR_CANNOT)
	ci/fuzz.sh -s $(OR_CANNOT)

test-memory: ## run tests with sanitizers and memcheck, which find wrong uses of memory
	ci/memory.sh $(ARGS)

test-pythons: ## run the tests with CPython 3.11 to 3.15, as far as there are these
	ci/pythons.sh $(ARGS)

test-nogil: ## run the tests without the GIL, and those with threads under ThreadSanitizer
	ci/nogil.sh
	ci/tsan.sh

test-windows: ## run most tests with CPython for Windows, under wine
	ci/windows.sh $(ARGS)

test-aarch64: ## run some tests on aarch64, under qemu
	ci/aarch64.sh $(ARGS)

cross: ## compile and link for every platform that wheels are made for
	ci/cross.sh $(ARGS)

test-faults: $(VENV)/.package $(VENV)/.tools ## break calls, networks, memory on purpose; 3 minutes
	$(BIN)/pytest -m slow $(SLOW) tests/test_faults_*.py $(ARGS)

test-threads: ## run tests in four threads at once, look at the order of locks: 2 minutes
	ci/threads.sh $(ARGS)

soak: $(VENV)/.package ## servers and clients in trouble for MINUTES=10; KEEP=1 puts the report into docs
	$(PIP) install -q --group soak
	$(BIN)/python tests/soak/run.py --minutes $(or $(MINUTES),10) \
		$(if $(KEEP),--keep docs/reliability.md) $(ARGS)

fuzz: ## fuzz what reads bytes from outside: 2 minutes, or ARGS="-t 600" for each target
	ci/fuzz.sh $(ARGS)

coverage: ## which lines the tests run, with pages in build/coverage; 95 % must be
	ci/coverage.sh $(ARGS)

mutation: ## whether the tests notice small faults; hours: MODULES="keyfile auth" for some
	ci/mutation.sh $(MODULES)

lint: lint-style lint-types lint-workflows lint-c ## style, types, workflows, warnings of C

lint-style: $(VENV)/.linters
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(IN_VENV) cython-lint src/*.pyx src/*.pxi
	$(BIN)/shellcheck --external-sources .ci/* ci/*.sh

lint-types: $(VENV)/.package $(VENV)/.tools $(VENV)/.linters
	$(BIN)/mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --warnings --pythonpath $(BIN)/python
	cd tests/typing && ../../$(BIN)/stubtest pysock.framing \
		--mypy-config-file ../../pyproject.toml --allowlist stubtest-allowlist.txt

lint-workflows: $(VENV)/.linters
	$(IN_VENV) actionlint .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet --persona=pedantic .github
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config \
		.github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms \
		$(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/validate-pyproject pyproject.toml
	$(IN_VENV) .ci/check-wheels

lint-c: $(VENV)/.made
	rm -rf build
	CFLAGS="-O2 -Wall -Wextra -Werror" $(PIP) wheel -q --no-deps -w build/strict .
	rm -rf build

docs: $(VENV)/.package $(VENV)/.docs ## the documentation as a site: docs/_build/html
	$(BIN)/sphinx-build -q -a -E -n -W --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html is the first page"

bench: $(VENV)/.bench ## compare speeds on this machine, with charts: under 20 minutes
	$(BIN)/pytest bench --benchmark-quiet --timeout=0 --results=bench/results $(ARGS)
	$(BIN)/python bench/charts.py bench/results

bench-quick: $(VENV)/.bench ## the same with few rounds and works: under 2 minutes, decides nothing
	$(BIN)/pytest bench --benchmark-quiet --timeout=0 --results=bench/results/quick --quick \
		--works=$(subst $(space),$(comma),$(QUICK)) $(ARGS)
	$(BIN)/python bench/charts.py bench/results/quick

bench-growth: $(VENV)/.bench ## how costs grow with size, depth, connections: under 10 minutes
	$(BIN)/python bench/growth.py $(ARGS)
	$(BIN)/python bench/charts.py bench/results

bench-instructions: $(VENV)/.package ## instructions for a message, by valgrind: what grew; 2 minutes
	$(BIN)/python bench/instructions.py $(ARGS)

man: $(VENV)/.package ## write man/pysock.1 anew, from the help of the verbs
	$(BIN)/python -P -m pysock.cli.manual > man/pysock.1.new
	mv man/pysock.1.new man/pysock.1

build: $(VENV)/.dist ## make dist/: the source distribution, and the wheel from it
	rm -rf build dist *.egg-info
	$(BIN)/python -m build

check-dist: build ## look at what build has made, install the wheel, run the first example
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	$(IN_VENV) .ci/check-dist

manylinux: build ## dist/ gets a wheel for Linux since 2014 besides; Linux only
	$(PIP) install -q --group manylinux
	$(IN_VENV) .ci/manylinux

check-version: ## the changelog must have what _version.py says; TAG=v1.2.3 must be that
	.ci/release --check $(TAG)

release: check-version check-dist ## tag what is committed, and say what to push; pushes nothing
	.ci/release

clean: ## remove everything that was made
	rm -rf $(VENV) build dist docs/_build *.egg-info src/*.c src/*.html pysock/*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache .benchmarks

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo >&2 "pysock needs Python 3.11 or newer: make PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' || { \
		echo >&2 "Python's headers are missing; on Debian: apt install python3-dev gcc"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo >&2 "no virtual environment; on Debian: apt install python3-venv"; exit 1; }
	$(PIP) install -q 'pip>=25.1'  # the first with --group
	touch $@

$(VENV)/.tools: $(VENV)/.made pyproject.toml
	$(PIP) install -q --group test
	touch $@

$(VENV)/.linters: $(VENV)/.made pyproject.toml
	$(PIP) install -q --group lint --group wheels
	touch $@

$(VENV)/.dist: $(VENV)/.made pyproject.toml
	$(PIP) install -q --group dist
	touch $@

$(VENV)/.docs: $(VENV)/.made pyproject.toml
	$(PIP) install -q --group docs
	touch $@

$(VENV)/.bench: $(VENV)/.package pyproject.toml
	$(PIP) install -q --group bench
	touch $@

$(VENV)/.package: $(VENV)/.made $(SOURCES)
	rm -rf build
	$(PIP) install -q --no-deps --force-reinstall .
	touch $@
