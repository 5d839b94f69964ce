# Every target makes what it needs: the system's packages where it may install them, then .venv (tools/environment.sh).
# The second time nothing is left to do, and it costs a fraction of a second.

PYTHON := .venv/bin/python
PYTEST_ARGS ?=
# Three processes, file by file: much of the suite waits. WORKERS=0 runs it in one.
WORKERS ?= 3
SOAK_SECONDS ?= $(or $(S),3600)

.PHONY: help demo test coverage test-recorded kills test-gpu test-recipes test-all-pythons mutants soak soak-core soak-gstreamer soak-cameras bench lag lint types docs dist clean

help:
	@echo "make demo              a live pipeline whose callback fails now and then, and what happened to each frame"
	@echo "make test              the whole suite        (PYTEST_ARGS='-k name -x' is passed on)"
	@echo "make coverage          which lines and branches of the core its tests run, to out/coverage (best with CPython 3.14)"
	@echo "make test-recorded     the core's tests and every adversary, with a flight recorder on"
	@echo "make kills N=1000      recorded processes killed at random moments: every file is readable, nothing in it wrong"
	@echo "make test-gpu          real OpenGL and wgpu, by Mesa's software renderers: minutes"
	@echo "make test-recipes      each program of docs/recipes against its real library: 2 GB of them, and minutes"
	@echo "tools/version-cell.sh  the suite with one CPython and this machine's GStreamer, as a row of docs/versions.md"
	@echo "make test-all-pythons  the suite on every CPython 3.10-3.14 found here"
	@echo "make mutants           bugs planted in the core, one at a time: the tests must find each"
	@echo "make soak-core S=3600  objects of every fate for S seconds, or N=5000000 of them: figures, memory and its plot in out/"
	@echo "make bench             the benchmarks' ratio tables, and plots, into docs/benchmarks.md"
	@echo "make soak-gstreamer    GStreamer for an hour: memory, ages, latency, with plots in out/soak (S=60 for less)"
	@echo "make soak-cameras      sixteen cameras, 200 clients, crowds of branches, recordings, for an hour: out/cameras (S=60 for less)"
	@echo "make soak S=3600       all three of them"
	@echo "make lag               draws how far sixteen receivers of a 1080p pipeline lag, to out/lag.png"
	@echo "make lint              ruff, mypy --strict, import-linter"
	@echo "make types             pyright: every public name has a complete type, as a user's type checker sees it"
	@echo "make docs              the documentation, warnings as errors, to out/docs (LINKS=1 asks the web for its links)"
	@echo "make dist              wheel and sdist, built twice and compared, checked, and tried in clean environments"
	@echo "make clean             removes .venv, caches and results"

demo:
	@tools/environment.sh demo
	@$(PYTHON) -m examples.demo

test:
	@tools/environment.sh test
	@$(PYTHON) -m pytest --numprocesses $(WORKERS) --dist loadfile --max-worker-restart 0 $(PYTEST_ARGS)

# The core: its private rooms, the manager and the places, by branch, also in the processes that tests start.
# From 3.14 on nothing is traced. Before that coverage uses the trace function, as the adversaries do: their tests, and
# those that look at what a frame keeps alive, fail under it, and the figure is lower.
CORE_TESTS = tests/adversaries tests/core tests/event_loops tests/guards tests/inspection tests/leaks tests/managers \
	tests/pools tests/profiling tests/proxies tests/recorder tests/sharing

coverage:
	@tools/environment.sh test
	@rm -rf out/coverage && mkdir -p out/coverage
	@-COVERAGE_FILE=$(CURDIR)/out/coverage/data $(PYTHON) -m coverage run -m pytest $(CORE_TESTS) \
		--ignore tests/core/test_budgets.py --timeout 300 $(PYTEST_ARGS)
	@COVERAGE_FILE=$(CURDIR)/out/coverage/data $(PYTHON) -m coverage combine --quiet
	@COVERAGE_FILE=$(CURDIR)/out/coverage/data $(PYTHON) -m coverage html --quiet --directory out/coverage/html
	@COVERAGE_FILE=$(CURDIR)/out/coverage/data $(PYTHON) -m coverage report --show-missing --skip-covered

# Not the tests that count bytecodes, and those of processes that die: the next announces their files.
# They stop at a line of a function that the recorder wraps, count the announcement of an earlier crash, or lean on
# the order of exit hooks, which is another one if the library is imported by the recorder.
NOT_RECORDED = \
	test_storms.py::test_an_access_that_began_before_the_door_was_shut_is_finished_before_the_release \
	test_storms.py::test_two_closers_of_one_handle \
	test_process.py::test_a_forked_child_releases_nothing_of_its_parents \
	test_process.py::test_using_the_manager_in_later_exit_hooks_is_refused_not_crashed

test-recorded:
	@tools/environment.sh test
	@mkdir -p out/recorded
	@LIFECYCLE_RECORDER=$(CURDIR)/out/recorded/test-{pid}.rec $(PYTHON) -m pytest tests/adversaries tests/core \
		--ignore tests/core/test_budgets.py --ignore tests/core/test_exit.py \
		$(addprefix --deselect tests/core/,$(NOT_RECORDED)) $(PYTEST_ARGS)

kills:
	@tools/environment.sh test
	@$(PYTHON) -m tests.recorder.killing --kills $(or $(N),1000)

test-gpu:
	@tools/environment.sh test
	@LIFECYCLE_GPU=1 $(PYTHON) -m pytest tests/gpu $(PYTEST_ARGS)

test-recipes:
	@tools/environment.sh recipes
	@LIFECYCLE_RECIPES=1 .venv-recipes/bin/python -m pytest tests/recipes $(PYTEST_ARGS)

test-all-pythons:
	@tools/environment.sh test
	@tools/test-all-pythons.sh $(PYTEST_ARGS)

mutants:
	@tools/environment.sh test
	@$(PYTHON) -m tools.mutants --write

bench:
	@tools/environment.sh bench
	@$(PYTHON) -m benchmarks --publish

soak: soak-core soak-gstreamer soak-cameras

soak-core:
	@tools/environment.sh test
	@$(PYTHON) -m benchmarks.core_soak $(if $(N),--objects $(N),--seconds $(SOAK_SECONDS))

soak-gstreamer:
	@tools/environment.sh test
	@GSTREAMER_CYCLES=500 $(PYTHON) -m pytest tests/gstreamer/test_branches.py -k storm
	@$(PYTHON) -m benchmarks.soak --seconds $(SOAK_SECONDS) --time 60

soak-cameras:
	@tools/environment.sh bench
	@$(PYTHON) -m benchmarks.cameras --seconds $(SOAK_SECONDS) --cameras 16 --size 160x120 --rate 5 --clients 200 --crowd 64

lag:
	@tools/environment.sh bench
	@$(PYTHON) -m benchmarks.lag

lint:
	@tools/environment.sh lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# As a user's checker sees the package. It fails below 100 %.
types:
	@tools/environment.sh types
	@PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/pyright --verifytypes lifecycle --ignoreexternal

docs:
	@tools/environment.sh docs
	@$(PYTHON) -m tools.pages --check
	@$(PYTHON) -m tools.docs $(if $(LINKS),--links)

dist:
	@tools/environment.sh dist
	@tools/ci/dist.sh

clean:
	rm -rf .venv .venv-recipes .venvs out build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
