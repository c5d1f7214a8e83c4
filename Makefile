# make report   compare four posteriors and write out/report/report.html
# make posteriordb   the table of docs/results/posteriordb.md; needs a copy of posteriordb in POSTERIORDB, takes an hour or more
# make draw-parity   the table of docs/results/draw_parity.md; needs POSTERIORDB too, half an hour
# make test     the fast and exact tests
# make test-cuda  those that need a graphics card
# make lint     ruff and mypy
# make docs     the documentation site in out/docs; warnings are errors
# make pictures  draw the pictures of docs/ again, from the imports and the sources
# make mutants  plant the kept faults one by one and run the tests that mirror them, an hour; DRAW=100 SEED=1 adds drawn ones
# make bench    time everything beside Pyro and what else is installed, write docs/performance.md; QUICK=1 for minutes, no page
# Each of them first makes .venv (Python >= 3.11 is all that is needed) and reuses it afterwards.

SHELL := /bin/bash
JOBS ?= 2
VENV := .venv
STAMP := $(VENV)/.installed
DOCS := $(VENV)/.docs
MUTANTS := $(VENV)/.mutants
RUN := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(VENV)/bin

.PHONY: report posteriordb draw-parity bench test test-cuda lint docs pictures mutants install clean

report: $(STAMP)
	@$(RUN)/zoo compare eight_schools eight_schools_centered gaussian_mixture linear_regression --guides all --jobs $(JOBS) --out out/report \
	    || { code=$$?; [ $$code -eq 1 ] || exit $$code; echo "the report is written; what failed a gate above is part of it"; }

draw-parity: $(STAMP)
	@$(RUN)/zoo study draw_parity --jobs $(JOBS) --write

posteriordb: $(STAMP)
	@$(RUN)/zoo study posteriordb --jobs $(JOBS) --write

# Cards are hidden: beside one that torch sees, processes forked from a test could not differentiate.
# Compiled modules are kept: every worker and every process that a test starts would compile them.
test: $(STAMP)
	@PYTHONDONTWRITEBYTECODE= CUDA_VISIBLE_DEVICES= $(RUN)/python -m pytest -p no:cacheprovider -n $(JOBS) --dist worksteal

test-cuda: $(STAMP)
	@$(RUN)/python -m pytest -p no:cacheprovider -n 0 -rs tests/test_guides/optimize/test_cuda.py

lint: $(STAMP)
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy

docs: $(DOCS)
	@rm -rf out/docs
	@CUDA_VISIBLE_DEVICES= $(RUN)/python -m sphinx -E -W --keep-going -q -b html docs out/docs
	@echo "the site is written: out/docs/index.html"

pictures: $(STAMP)
	@PYTHONPATH=docs $(RUN)/python -m site_tools.architecture
	@PYTHONPATH=docs $(RUN)/python -m site_tools.compiler_picture

mutants: $(if $(DRAW),$(MUTANTS),$(STAMP))
	@$(RUN)/python tests/mutants/run.py --jobs $(JOBS) --write $(if $(DRAW),--draw $(DRAW) --seed $(or $(SEED),0))

bench: $(STAMP)
	@$(RUN)/zoo bench $(if $(QUICK),--quick,--page docs/performance.md) --out out/bench

install: $(STAMP)

# torch goes first and by itself: with the constraint in place the resolver then keeps exactly this build.
$(STAMP): pyproject.toml constraints.txt
	@set -euo pipefail; \
	ok='import sys; sys.exit(sys.version_info < (3, 11))'; found=; \
	for candidate in $(PYTHON) $(VENV)/bin/python python3.11 python3.12 python3.13 python3 python; do \
	    if "$$candidate" -c "$$ok" >/dev/null 2>&1; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "posterior-zoo needs Python 3.11 or newer and none was found (python3 is $$(python3 --version 2>&1 || true)); install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; \
	fi; \
	if ! $(VENV)/bin/python -c "$$ok" >/dev/null 2>&1; then echo "making $(VENV) with $$("$$found" --version)"; rm -rf $(VENV); "$$found" -m venv $(VENV); fi; \
	echo "installing the pinned dependencies into $(VENV) (once)"; \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0; \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	touch $@

$(DOCS): $(STAMP)
	@echo "installing what builds the site into $(VENV) (once)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $@

$(MUTANTS): $(STAMP)
	@echo "installing what draws faults into $(VENV) (once)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,mutants]'
	@touch $@

clean:
	rm -rf build dist out *.egg-info
