# Every target sets up what it needs: the newest Python from 3.11 on makes .venv, once.
# PYTHON=/path/to/python3 chooses another; PORT=8001 moves the demo; ARGS="…" go to pytest, to
# the benchmark, or to demo-refresh.

SHELL := /bin/sh
PORT ?= 8000
python := .venv/bin/python
example := $(python) example_project/manage.py
# What a caller has set for another project must not reach this one. Without bytecode, each process of
# a run would compile all of the code and the tests again.
unexport PYTHONHOME PYTHONPATH DJANGO_SETTINGS_MODULE PYTHONDONTWRITEBYTECODE

demo := DEMO_PORT='$(PORT)' DEBUG=on ALLOWED_HOSTS= DJANGO_RUNSERVER_HIDE_WARNING=true $(example)
# Access tokens of three minutes, so that there is something to watch.
watched_demo := SANDBOX_TOKEN_LIFETIME=180 $(demo)
server := runserver --noreload '127.0.0.1:$(PORT)'
check_port := [ '$(PORT)' -ge 1 ] 2>/dev/null && [ '$(PORT)' -le 65535 ] || \
	{ echo "PORT='$(PORT)' is no port: give a number up to 65535, as in PORT=8001" >&2; exit 1; }
is_serving := $(python) -c 'import socket; socket.create_connection(("127.0.0.1", $(PORT)), 1)'

# What `check --deploy` judges: the example's settings as they stand in production.
production := DEBUG=off LEADEXEC_SANDBOX=off ALLOWED_HOSTS=www.example.org \
	DATABASE_URL=sqlite://:memory: CACHE_URL=rediscache://127.0.0.1:6379/1 \
	LEADEXEC_APP_ID=app LEADEXEC_BUTTON_ID=button
make_keys := SECRET_KEY=$$($(python) -c 'import secrets; print(secrets.token_urlsafe(64))') \
	LEADEXEC_ENCRYPTION_KEYS=$$($(python) -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())')

# Python's development mode shows warnings of every kind. Its checks of memory, of use for extensions
# in C alone, would take a sixth of the time.
development := PYTHONDEVMODE=1 PYTHONMALLOC=pymalloc
pytest := $(python) -m pytest --numprocesses=4 --dist=worksteal
cosmic_ray := 8.7.0
coverage := 7.17.3
postgres := postgres://postgres@127.0.0.1:5432
# After the tests on SQLite, those that need a database server, where one lets us in. CI runs these
# and more on two servers anyway.
test_on_postgres := if $(python) -c 'import psycopg; psycopg.connect("$(postgres)/postgres", connect_timeout=2)' 2>/dev/null; \
	then DATABASE_URL=$(postgres)/leadexec $(development) $(pytest) -m server; \
	else echo "No PostgreSQL lets postgres in at 127.0.0.1:5432: the tests marked server are left out."; fi

.PHONY: help demo demo-refresh demo-watch test test-fast mutants coverage lint audit format types types-wheel check docs build check-dist sbom lock bench clean assets assets-check pictures messages venv-example venv-dev

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: venv-example ## Serve the example project with a sandbox in place of LeadExec
	@$(check_port)
	@$(demo) prepare_demo --check-port
	@$(demo) $(server)

demo-refresh: venv-example ## Beside a running demo: run refresh_leadexec_tokens, and show what it did (ARGS=--all)
	@$(check_port)
	@$(demo) demo_refresh $(ARGS)

demo-watch: venv-example ## Serve the example project, with refresh_leadexec_tokens --watch beside it
	@$(check_port)
	@$(watched_demo) prepare_demo --check-port --watched
	@trap 'kill $$server 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	$(watched_demo) $(server) & server=$$!; \
	until $(is_serving) 2>/dev/null; do kill -0 $$server 2>/dev/null || exit 1; done; \
	$(watched_demo) refresh_leadexec_tokens --watch

test: venv-dev ## Run the tests (on another database: make test DATABASE_URL=postgres://…)
	$(development) $(pytest) $(ARGS)
	$(if $(DATABASE_URL)$(ARGS)$(CI),,@$(test_on_postgres))

# These tests hardly wait, so a fourth worker would only take longer to start.
test-fast: venv-dev ## Run, in less than a minute, the tests that need no browser, process or server
	$(pytest) --numprocesses=3 -m "not slow and not browser and not cluster and not redis and not rabbitmq and not node" $(ARGS)

mutants: venv-dev ## Change the code a little and tell what no test notices: ARGS="refresh/writer --seed 7"
	$(python) -m uv run --quiet --no-project --python $(python) --with cosmic-ray==$(cosmic_ray) --with coverage==$(coverage) \
		python scripts/mutate.py $(ARGS)

coverage: venv-dev ## Run the tests and report what they don't reach
	$(development) $(python) -m pytest --cov --cov-report=term-missing $(ARGS)

lint: venv-dev ## Check style, known faults and imports with ruff, bandit and import-linter
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m bandit --quiet --recursive django_leadexec
	.venv/bin/lint-imports --no-cache --no-logo

# Not part of .ci/run: it needs PyPI's own JSON API, which many mirrors lack. There it fails, as
# --strict takes a package that could not be looked up for one that may be vulnerable.
audit: venv-dev ## Look the locked packages up among the known vulnerabilities (asks PyPI)
	@for lock in constraints/*.txt; do \
		echo "$$lock"; \
		$(python) -m uv tool run pip-audit --strict --disable-pip --no-deps -r "$$lock" || exit 1; \
	done

format: venv-dev ## Fix what ruff can fix
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

types: venv-dev ## Check the types with mypy
	$(python) -m mypy

types-wheel: venv-dev ## Check what mypy and pyright make of the wheel in a site, without a plugin
	@scripts/check_types

check: venv-dev ## Look for missing migrations, and check the example's production settings
	@$(make_keys) DEBUG=on LEADEXEC_SANDBOX=on DATABASE_URL=sqlite://:memory: \
		$(example) makemigrations --check --dry-run
	@$(make_keys) $(production) $(example) collectstatic --no-input --verbosity 0
	@$(make_keys) $(production) $(example) check --deploy --fail-level WARNING

docs: venv-dev ## Build the documentation site in docs/_build/html
	$(python) -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html

build: venv-dev ## Build the sdist and the wheel into dist/, the same bytes each time, and check them
	$(python) scripts/build.py
	$(python) -m twine check --strict dist/*
	$(python) -m pyroma --min=10 --skip-tests=BusFactor dist/*.tar.gz
	if [ -e .git ]; then $(python) -m check_manifest; fi

check-dist: build sbom ## Install the wheel, collect the sdist's tests, and build both again
	$(python) scripts/check_dist.py

sbom: venv-dev ## Describe what the built wheel needs, as locked: build/django_leadexec.cdx.json
	@scripts/sbom

assets: frontend/node_modules ## Build the scripts and styles that browsers get (needs Node.js and npm)
	npm --prefix frontend run --silent build

assets-check: frontend/node_modules ## Check that they are built from the sources as they stand
	@built=$$(mktemp -d) && trap 'rm -rf "$$built"' EXIT && \
	npm --prefix frontend run --silent build "$$built" && \
	diff --exclude='leadexec-debug.*' -r "$$built" django_leadexec/static/django_leadexec || \
	{ echo "run make assets, and commit what it builds" >&2; exit 1; }

frontend/node_modules: frontend/package-lock.json
	npm --prefix frontend ci --silent
	@touch $@

messages: venv-dev ## Bring the translations up to date, and compile them (needs gettext; ARGS=sv begins one)
	PYTHONPATH=. $(python) scripts/messages.py $(ARGS)

pictures: venv-dev ## Make the documentation's pictures again, from the example project
	$(python) scripts/screenshots.py

lock: venv-dev ## Write the constraints files again, with the newest versions
	@for minor in 11 12 13 14; do \
		echo "constraints/py3$$minor.txt"; \
		$(python) -m uv pip compile setup.cfg --all-extras --quiet --upgrade \
			--python-version 3.$$minor --no-emit-index-url --no-emit-find-links --no-annotate \
			--custom-compile-command 'make lock' -o constraints/py3$$minor.txt || exit 1; \
	done

bench: venv-dev ## Measure, on a quiet machine, for three quarters of an hour (make bench ARGS=--quick)
	@$(python) -m benchmarks $(ARGS)

clean: ## Remove what make has made, but not the demo's data
	rm -rf .venv frontend/node_modules build dist docs/_build htmlcov .coverage .mypy_cache .pytest_cache .ruff_cache ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv-example:
	@scripts/venv example

venv-dev:
	@scripts/venv dev
