# Two commands on a fresh machine with Python 3.11 or newer: `make run` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
# Written after the installation; a newer pyproject.toml or lock installs again.
INSTALLED := .venv/.installed
UV := .venv/uv/bin/uv
LOCK := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock"
MIGRATIONS = $(filter-out %.rollback.sql,$(wildcard migrations/*.sql))

.DEFAULT_GOAL := help
.PHONY: help run test bench plans stubs mutants faults lint format review compat lock audit-deps sbom clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

run: $(INSTALLED)  ## start everything: API on :8080, worker, PostgreSQL, Valkey, Stripe stand-in
	@exec $(BIN)/python -m service run $(if $(PORT),--port $(PORT))

test: lint  ## lint, types and the whole test suite
	$(BIN)/pytest -q -n auto --dist loadfile --no-loadscope-reorder

bench: $(INSTALLED)  ## measure it against its peers, 15 minutes; some parts with NAME="list reserve"
	@$(BIN)/python -m tests.bench $(NAME)

plans: $(INSTALLED)  ## write the plans of all statements at a million products, for review
	$(BIN)/pytest -q tests/sql/test_plans.py -k committed --renew-plans

stubs: $(INSTALLED)  ## write what follows from the headers under sql/: their callers, sql.pyi, the lock map
	$(BIN)/python -m tests.sql.callers
	$(BIN)/python -m tests.sql.stubs
	$(BIN)/python -m tests.sql.headers

mutants: $(INSTALLED)  ## remove each guard of money and stock and check that a test fails; some with NAME="reserve"
	@$(BIN)/python -m tests.mutants $(if $(NAME),"$(NAME)")

faults: $(INSTALLED)  ## kill, freeze, cut and flood it under load, half an hour; one part with NAME="kill-api times=3"
	@$(BIN)/python -m tests.faults $(NAME)

lint: $(INSTALLED)  ## style of Python and SQL, safety of migrations, types, imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/sqlfluff lint --disable-progress-bar sql migrations
	$(BIN)/squawk $(MIGRATIONS)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## format the Python code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

review: $(INSTALLED)  ## print every SQL statement as PREPARE, for psql; with SINCE=main those that changed since
	@$(BIN)/python -m service review $(if $(SINCE),--since "$(SINCE)")

compat: $(INSTALLED) $(UV)  ## buy with the lowest and the locked versions; Python 3.13; TypeScript clients; an OpenID provider
	@$(BIN)/python -m tests.compat $(UV) $(NAME)
	@sh tests/clients/typescript.sh "$(CURDIR)/$(BIN)/python"
	@sh tests/http/provider/provider.sh "$(CURDIR)/$(BIN)/python"

lock: $(UV)  ## renew the locks: requirements.txt for the container image, requirements-dev.txt for development
	$(UV) pip compile $(LOCK) --extra tracing --output-file requirements.txt pyproject.toml
	$(UV) pip compile $(LOCK) --extra dev --constraint requirements.txt --output-file requirements-dev.txt pyproject.toml

audit-deps: $(INSTALLED) $(UV)  ## check requirements.txt against known vulnerabilities
	@test -x .venv/audit/bin/pip-audit || { $(BIN)/python -m venv .venv/audit && .venv/audit/bin/pip install --quiet pip-audit; }
	@# Strict: without it, a package that could not be looked up would pass. It prints a table of what it found.
	@report=$$(.venv/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.txt \
		--progress-spinner off) && exit; \
		test -z "$$report" || { echo "$$report"; exit 1; }; \
		echo "Not audited: the advisory service did not answer. The versions, and when each was published:"; \
		$(BIN)/python -m tests.pins $(UV); exit 1

sbom: $(INSTALLED)  ## write the image's software bill of materials, dist/sbom.json, from requirements.txt
	@test -x .venv/sbom/bin/cyclonedx-py || \
		{ $(BIN)/python -m venv .venv/sbom && .venv/sbom/bin/pip install --quiet 'cyclonedx-bom>=7,<8'; }
	@mkdir -p dist
	@PYTHONWARNINGS=ignore .venv/sbom/bin/cyclonedx-py requirements requirements.txt --pyproject pyproject.toml \
		--output-reproducible --output-format JSON --output-file dist/sbom.json
	@echo "dist/sbom.json: CycloneDX, `grep -c '"purl"' dist/sbom.json` packages"

clean:  ## remove installed and cached files; the data stay
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV): | $(INSTALLED)
	@$(BIN)/python -m venv .venv/uv && .venv/uv/bin/pip install --quiet --disable-pip-version-check uv

$(INSTALLED): pyproject.toml requirements-dev.txt
	@command -v $(PYTHON) > /dev/null || \
		{ echo "There is no $(PYTHON): install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is `$(PYTHON) -V`, but 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments: install its venv module (Debian, Ubuntu: python3-venv)."; exit 1; }
	@echo "Installing into .venv; the first time takes a minute …"
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
