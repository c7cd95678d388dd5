# `make help` lists the commands. Each sets up what it needs, in .venv, from the versions in uv.lock.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Only the command line sets it, because a shell's PYTHON has other purposes.
PYTHON := python3
BENCH_PYTHON ?= 3.13
SEED ?= 7

# Refuse misspelt options instead of ignoring them.
options := $(foreach name,$(.VARIABLES),$(if $(filter command line,$(origin $(name))),$(name)))
unknown := $(filter-out PYTHON BENCH_PYTHON SEED,$(options))
ifneq ($(if $(filter 0,$(MAKELEVEL)),$(unknown)),)
$(error unknown option $(unknown); the options are PYTHON, BENCH_PYTHON and SEED)
endif

version_of = $(shell $(1) -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null)
ifeq ($(origin PYTHON),command line)
ifeq ($(call version_of,$(PYTHON)),)
$(error this machine has no $(PYTHON) that runs; name another Python, from 3.11 on, or leave PYTHON out for python3)
endif
ifneq ($(and $(wildcard .venv/bin/python),$(filter-out $(call version_of,.venv/bin/python),$(call version_of,$(PYTHON)))),)
$(error .venv has Python $(call version_of,.venv/bin/python), not $(call version_of,$(PYTHON)); run make clean first)
endif
endif

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export SAM_CLI_TELEMETRY := 0

ready := .venv/ready
# More processes than processors, because tests sometimes wait for a deadline or another process; those of the runtime do
# so half of the time.
processors := $$(python -c 'import os; print(len(os.sched_getaffinity(0)))')
parallel := --dist worksteal --numprocesses "$$((3 * $(processors) / 2))"
parallel_runtime := --dist worksteal --numprocesses "$$((2 * $(processors)))"
demo := build/demo

.PHONY: help demo test check lint lint-style lint-types lint-project-types lint-example-types lint-shell-and-workflows \
	mutants bench drift clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

demo: $(ready) ## Generate the default project, build it, and stream from the build
	@rm -rf $(demo)
	@cookiecutter . --default-config --no-input --output-dir $(demo)
	@cd $(demo)/lambda-stream && sam build && \
		python -m local.probe --expect-streaming --serve .aws-sam/build/template.yaml
	@echo "The project is in $(demo)/lambda-stream. To try it: cd $(demo)/lambda-stream && make dev"

test: lint ## Run the whole suite; the runtime's tests must cover all of its branches
	@rm -rf build/coverage && mkdir -p build/coverage
	@coverage run -m pytest $(parallel_runtime) tests/runtime
	@coverage combine --quiet
	@coverage report
	@python -m pytest $(parallel) --ignore tests/runtime

check: lint ## Run the quick part of the suite, in about two minutes
	@python -m pytest $(parallel) -m "not slow"

# All of them in parallel, even after a failure. (Without --output-sync, which waits forever if the output goes to a file
# that another process has locked.) Each mypy has its own cache, because they cannot share one.
lint: $(ready)
	@$(MAKE) --no-print-directory --jobs --keep-going \
		lint-style lint-types lint-project-types lint-example-types lint-shell-and-workflows

lint-style:
	@ruff check --config pyproject.toml .
	@ruff format --check --config pyproject.toml .

lint-types lint-project-types lint-example-types: export MYPY_CACHE_DIR = $(CURDIR)/.mypy_cache/$@

lint-types:
	@mypy hooks filters.py questions.py local_extensions.py tests benchmarks drift
	@MYPYPATH=adopt mypy adopt/adopting adopt/adopt_extension.py adopt/hooks

lint-project-types:
	@cd '{{cookiecutter.project_slug}}' && MYPYPATH=src:runtime mypy --config-file ../pyproject.toml src runtime local tests pipeline

lint-example-types:
	@cd '{{cookiecutter.project_slug}}' && for example in examples/*; do \
		MYPYPATH=$$example:examples/chat:$$example/src:examples/chat/src:runtime \
			mypy --config-file ../pyproject.toml $$example || exit 1; done

lint-shell-and-workflows:
	@shellcheck .ci/run '{{cookiecutter.project_slug}}/runtime/bootstrap' \
		'{{cookiecutter.project_slug}}/interpreter.sh'
	@zizmor --quiet --offline --persona pedantic .github '{{cookiecutter.project_slug}}/.github'
	@actionlint

mutants: $(ready) ## Break 40 lines, one at a time, and list those that no test catches [SEED=7]
	@python -m tests.helpers.mutations --seed "$(SEED)"

bench: $(ready) ## Measure generation, the local URL and the runtime against its peers; draw benchmarks/chart.svg [BENCH_PYTHON=3.13]
	@UV_PROJECT_ENVIRONMENT=build/bench uv sync --quiet --locked --only-group bench --python "$(BENCH_PYTHON)" || { \
		echo "uv could not set up build/bench. If it finds no Python $(BENCH_PYTHON), name another one with BENCH_PYTHON=…" >&2; exit 1; }
	@missed=0; python -m benchmarks.bake || missed=1; python -m benchmarks.local_url || missed=1; \
		build/bench/bin/python -m benchmarks.applications --document docs/performance.md || missed=1; \
		build/bench/bin/python -m benchmarks.scale --document docs/performance.md || missed=1; \
		build/bench/bin/python -m benchmarks --chart benchmarks/chart.svg && exit $$missed

# With the newest packages, which do not install together with the SAM CLI, so pytest runs without this project's settings.
drift: $(ready) ## Compare what aws_limits.toml says of AWS with the newest botocore, cfn-lint, CDK and others
	@COLUMNS=2000 uv run --quiet --isolated --no-project --refresh --with-requirements drift/packages.txt \
		python -m pytest -c /dev/null --rootdir . -p no:cacheprovider -q --tb=no -rfE drift

clean: ## Remove everything that git ignores, such as .venv and build/
	@git clean -dffqX

# This only requires Python: pip installs any uv, which then installs the versions in uv.lock, its own included.
$(ready): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is required," \
		"and $(PYTHON) is $(or $(call version_of,$(PYTHON)),missing). Name another one with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	@echo "Installing $$(.venv/bin/uv export --quiet --locked --no-hashes --no-header | grep -c ==) packages into .venv, about 30 s:" \
		"once, and again when uv.lock changes."
	@.venv/bin/uv sync --locked --inexact --compile-bytecode
	@touch $@
