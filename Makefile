# Every target sets up what it needs: the newest Python from 3.11 on makes .venv, once.
# PYTHON=/path/to/python3 chooses another; PORT=8001 moves the demo; ARGS="…" go to pytest, or to
# the benchmark.

SHELL := /bin/sh
PORT ?= 8000
python := .venv/bin/python
example := $(python) example_project/manage.py
unexport PYTHONHOME PYTHONPATH

# What `check --deploy` judges: the example's settings as they stand in production.
production := DEBUG=off LEADEXEC_SANDBOX=off ALLOWED_HOSTS=www.example.org \
	DATABASE_URL=sqlite://:memory: CACHE_URL=rediscache://127.0.0.1:6379/1 \
	LEADEXEC_APP_ID=app LEADEXEC_BUTTON_ID=button
make_keys := SECRET_KEY=$$($(python) -c 'import secrets; print(secrets.token_urlsafe(64))') \
	LEADEXEC_ENCRYPTION_KEYS=$$($(python) -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())')

.PHONY: help demo test coverage lint audit format types check build lock bench clean venv-example venv-dev

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: venv-example ## Serve the example project with a sandbox in place of LeadExec
	@[ '$(PORT)' -ge 1 ] 2>/dev/null && [ '$(PORT)' -le 65535 ] || \
		{ echo "PORT='$(PORT)' is no port: give a number up to 65535, as in PORT=8001" >&2; exit 1; }
	@DEMO_PORT='$(PORT)' DEBUG=on $(example) prepare_demo --check-port
	@DEMO_PORT='$(PORT)' DEBUG=on DJANGO_RUNSERVER_HIDE_WARNING=true \
		$(example) runserver --noreload '127.0.0.1:$(PORT)'

test: venv-dev ## Run the tests (on another database: make test DATABASE_URL=postgres://…)
	PYTHONDEVMODE=1 $(python) -m pytest --numprocesses=4 --dist=worksteal $(ARGS)

coverage: venv-dev ## Run the tests and report what they don't reach
	PYTHONDEVMODE=1 $(python) -m pytest --cov --cov-report=term-missing $(ARGS)

lint: venv-dev ## Check style and known faults with ruff and bandit
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m bandit --quiet --recursive django_leadexec

# Not part of .ci/run: it needs PyPI's own JSON API, which many mirrors lack. There it fails, as
# --strict takes a package that could not be looked up for one that may be vulnerable.
audit: venv-dev ## Look the locked packages up among the known vulnerabilities (asks PyPI)
	@for lock in constraints/*.txt; do \
		echo "$$lock"; \
		$(python) -m uv tool run pip-audit --strict --disable-pip --no-deps -r "$$lock" || exit 1; \
	done

format: venv-dev ## Mend what ruff can mend by itself
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

types: venv-dev ## Check the types with mypy
	$(python) -m mypy

check: venv-dev ## Look for missing migrations, and check the example's production settings
	@$(make_keys) DEBUG=on LEADEXEC_SANDBOX=on DATABASE_URL=sqlite://:memory: \
		$(example) makemigrations --check --dry-run
	@$(make_keys) $(production) $(example) check --deploy --fail-level WARNING

build: venv-dev ## Build the sdist and the wheel into dist/
	rm -rf build dist
	$(python) -m build --quiet

lock: venv-dev ## Make the constraints files anew, with the newest versions
	@for minor in 11 12 13 14; do \
		echo "constraints/py3$$minor.txt"; \
		$(python) -m uv pip compile setup.cfg --all-extras --quiet --upgrade \
			--python-version 3.$$minor --no-emit-index-url --no-emit-find-links --no-annotate \
			--custom-compile-command 'make lock' -o constraints/py3$$minor.txt || exit 1; \
	done

bench: venv-dev ## Measure, on a quiet machine, for half an hour (make bench ARGS=--quick)
	@$(python) -m benchmarks $(ARGS)

clean: ## Remove what make has made, but not the demo's data
	rm -rf .venv build dist htmlcov .coverage .mypy_cache .pytest_cache .ruff_cache ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv-example:
	@scripts/venv example

venv-dev:
	@scripts/venv dev
