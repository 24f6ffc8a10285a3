# `make` lists the targets. Everything happens in .venv, made on first use.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: tree help run test test-slow test-postgres test-lowest test-newest cover check bench settings format clean schema man lock bench-postgres bench-scale binary crash fuzz attack load soak chaos

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/made: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

run: .venv/made ## run the server
	$(BIN)/happy-server-light

test: .venv/made ## run the tests that are quick
	$(BIN)/pytest

test-slow: .venv/made ## run those that start servers of their own or wait for real timeouts
	$(BIN)/pytest -m slow

.venv-lowest/made: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --editable '.[dev]' --constraint tests/lowest.txt
	@touch $@

test-lowest: .venv-lowest/made ## run the quick tests with the lowest versions of the dependencies
	.venv-lowest/bin/pytest

test-newest: ## run the quick tests with the newest versions of the dependencies
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
	.venv-newest/bin/pytest

# Tests start servers with an environment of their own, so coverage is switched on by a .pth file, which Python reads at
# each start. It lies in a virtual environment that is for this target only.
cover: .venv/made ## print how much of happy_light the quick tests run, server processes included
	$(PYTHON) -m venv --clear .venv-cover
	.venv-cover/bin/pip install --quiet --editable '.[dev]'
	.venv-cover/bin/python -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'cover.pth').write_text( \
	    'import os; os.environ.update(COVERAGE_PROCESS_START=\'$(CURDIR)/.coveragerc\', COVERAGE_FILE=\'$(CURDIR)/.coverage\'); import coverage; coverage.process_startup()')"
	rm -f .coverage .coverage.*
	.venv-cover/bin/pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: .venv/made ## lint and type-check: ruff, mypy strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/made ## measure this server beside the bare stack, and beside VS="command with {port} and {folder}" (about 3 minutes); GROWTH=1: 10,000,000 messages; SLOW=1: a third of a core
	$(BIN)/python -m tests.bench $(if $(VS),--vs "$(VS)") $(if $(GROWTH),--growth) $(if $(SLOW),--slow) $(ARGS)

bench-postgres: .venv/made ## measure this server on a PostgreSQL of its own beside itself on SQLite (about 2 minutes)
	$(BIN)/python -m tests.bench.postgres

bench-scale: .venv/made ## measure one, two and four processes on PostgreSQL and Redis, and write the tables into docs/scale.md
	$(BIN)/python -m tests.bench.scale --rounds 3 > .scale.md
	sed -i.old -e '/<!-- bench-scale/,/<!-- end of bench-scale/{//!d;}' -e '/<!-- bench-scale/r .scale.md' docs/scale.md
	@cat .scale.md; rm -f .scale.md docs/scale.md.old

format: .venv/made ## let ruff format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

settings: .venv/made ## write the table of settings into docs/settings.md
	$(BIN)/happy-server-light config --markdown > .settings.md
	sed -i.old -e '/<!-- settings/,/<!-- end of settings/{//!d;}' -e '/<!-- settings/r .settings.md' docs/settings.md
	@rm -f .settings.md docs/settings.md.old

tree: .venv/made ## write the tree of the code into docs/architecture.md
	$(BIN)/python -m tools.code_tree

man: .venv/made ## write the manual page, and completions for bash, zsh and fish, into packaging/
	$(BIN)/python -m tools.man_page

lock: .venv/made ## write the versions that the container image installs into packaging/newest.txt
	$(BIN)/python -m tools.lock

# PyInstaller takes what is installed, so it runs in a virtual environment that has the server and nothing else.
binary: .venv/made ## build one executable file that needs no Python, and try it: dist/happy-server-light
	$(PYTHON) -m venv --clear .venv-binary
	.venv-binary/bin/pip install --quiet --constraint packaging/newest.txt '.[fast,github]' 'pyinstaller>=6.16,<7'
	.venv-binary/bin/pyinstaller --noconfirm --clean --log-level WARN --onefile --name happy-server-light \
	    --collect-data happy_light --workpath build/binary --specpath build --distpath dist .venv-binary/bin/happy-server-light
	$(BIN)/python -m tools.try_binary dist/happy-server-light

schema: .venv/made ## derive the PostgreSQL schema from schema.sql
	$(BIN)/python -m tools.postgres_schema

test-postgres: .venv/made ## run the quick tests that have a server with one that keeps its data in PostgreSQL
	$(BIN)/pytest --database postgres

crash: .venv/made ## kill a server 100 times under load and look for every acknowledged write
	$(BIN)/python -m tests.hardness.crash 100

chaos: .venv/made ## ten minutes of kills, stops and outages below a server of three processes; CHAOS=seconds
	$(BIN)/python -m tests.hardness.chaos $(CHAOS)

fuzz: .venv/made ## five minutes of whatever clients could send; FUZZ=seconds for another time
	$(BIN)/python -m tests.hardness.fuzz $(FUZZ)

attack: .venv/made ## misbehaving clients, a minute of each, beside normal ones
	$(BIN)/python -m tests.hardness.attack

load: .venv/made ## print what idle sockets, heartbeats and reconnects cost
	$(BIN)/python -m tests.hardness.load

soak: .venv/made ## ten minutes of everything, with the memory
	$(BIN)/python -m tests.hardness.load 600

clean: ## remove what was made
	rm -rf .venv .venv-lowest .venv-newest .venv-cover .venv-binary .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache dist build
