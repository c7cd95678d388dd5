# `make help` lists the commands. Each sets up what it needs, in .venv, from the versions in uv.lock.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BENCH_PYTHON ?= 3.13
SEED ?= 7

# A misspelt option must not pass for one that was not given.
options := $(foreach name,$(.VARIABLES),$(if $(filter command line,$(origin $(name))),$(name)))
unknown := $(filter-out PYTHON BENCH_PYTHON SEED,$(options))
ifneq ($(if $(filter 0,$(MAKELEVEL)),$(unknown)),)
$(error unknown option $(unknown); the options are PYTHON, BENCH_PYTHON and SEED)
endif

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export SAM_CLI_TELEMETRY := 0

ready := .venv/ready
# More than there are processors, since a test waits at times, for a deadline or for another process; those of the runtime
# do so half of the time.
processors := $$(python -c 'import os; print(len(os.sched_getaffinity(0)))')
parallel := --dist worksteal --numprocesses "$$((3 * $(processors) / 2))"
parallel_runtime := --dist worksteal --numprocesses "$$((2 * $(processors)))"
demo := build/demo

.PHONY: help demo test check lint lint-style lint-types lint-project-types lint-example-types lint-shell-and-workflows \
	mutants bench clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

demo: $(ready) ## Generate the default project, build it, and stream from what was built
	@rm -rf $(demo)
	@cookiecutter . --default-config --no-input --output-dir $(demo)
	@cd $(demo)/lambda-stream && sam build && \
		python -m local.probe --expect-streaming --serve .aws-sam/build/template.yaml

test: lint ## Run the whole suite; that of the runtime has to cover all of its branches
	@rm -rf build/coverage && mkdir -p build/coverage
	@coverage run -m pytest $(parallel_runtime) tests/runtime
	@coverage combine --quiet
	@coverage report
	@python -m pytest $(parallel) --ignore tests/runtime

check: lint ## Run the part of the suite that fits in a minute
	@python -m pytest $(parallel) -m "not slow"

# Side by side, and all of them, whatever the first of them finds. (Not with --output-sync, which waits for ever where
# somebody else keeps a lock on /dev/null and that is where the output goes.) No two mypys may share a cache.
lint: $(ready)
	@$(MAKE) --no-print-directory --jobs --keep-going \
		lint-style lint-types lint-project-types lint-example-types lint-shell-and-workflows

lint-style:
	@ruff check --config pyproject.toml .
	@ruff format --check --config pyproject.toml .

lint-types lint-project-types lint-example-types: export MYPY_CACHE_DIR = $(CURDIR)/.mypy_cache/$@

lint-types:
	@mypy hooks filters.py questions.py local_extensions.py tests benchmarks

lint-project-types:
	@cd '{{cookiecutter.project_slug}}' && MYPYPATH=src:runtime mypy --config-file ../pyproject.toml src runtime local tests pipeline

lint-example-types:
	@cd '{{cookiecutter.project_slug}}' && for example in examples/*; do \
		MYPYPATH=$$example/src:runtime mypy --config-file ../pyproject.toml $$example || exit 1; done

lint-shell-and-workflows:
	@shellcheck .ci/run '{{cookiecutter.project_slug}}/runtime/bootstrap' \
		'{{cookiecutter.project_slug}}/interpreter.sh'
	@zizmor --quiet --offline --persona pedantic .github '{{cookiecutter.project_slug}}/.github'
	@actionlint

mutants: $(ready) ## Break 40 lines, one at a time, and tell which of them no test sees [SEED=7]
	@python -m tests.helpers.mutations --seed "$(SEED)"

bench: $(ready) ## Measure a bake, the local URL, and the runtime beside its peers; draw benchmarks/chart.svg [BENCH_PYTHON=3.13]
	@UV_PROJECT_ENVIRONMENT=build/bench uv sync --quiet --locked --only-group bench --python "$(BENCH_PYTHON)" || { \
		echo "uv could not set build/bench up; if it finds no Python $(BENCH_PYTHON), name one with BENCH_PYTHON=…" >&2; exit 1; }
	@missed=0; python -m benchmarks.bake || missed=1; python -m benchmarks.local_url || missed=1; \
		build/bench/bin/python -m benchmarks --chart benchmarks/chart.svg && exit $$missed

clean: ## Remove what the other commands made: all that git ignores
	@git clean -dffqX

# This needs nothing beside Python: pip installs some uv, which installs itself anew as uv.lock has it, with the rest.
$(ready): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is too old: this takes Python 3.11 or later; name one with PYTHON=…" >&2; exit 1; }
	@echo "Setting up .venv from uv.lock: once, and again when that changes."
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	@.venv/bin/uv sync --quiet --locked --inexact --compile-bytecode
	@touch $@
