# Everything a person or CI runs. Each target installs what it needs on a machine with python3 >= 3.11 and venv.
.DEFAULT_GOAL := help
.PHONY: help install demo docs test test-e2e test-gpu browser check format bench bench-gpu lock clean

VENV := .venv
BIN := $(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
export UV_NO_PROGRESS := 1

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed ## Install the locked packages into .venv

$(VENV)/.installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || python3 -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## Play the whole story offline, in ./demo
	$(BIN)/clipdecoder demo

test: install ## Run the tests (CPU, no network)
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -n auto --dist loadfile -m "not gpu and not slow and not e2e and not browser"

test-e2e: install browser ## Run the long tests: Prefect server and worker, the demo, a browser, kills at every step
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m "slow or e2e or browser"

browser: ## Install Chromium and its driver where they are missing (Debian's packages)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || \
		{ $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium chromium-driver; }

test-gpu: install ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

check: install ## Lint, format, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install ## Build the site of docs/ into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: install ## Rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## Measure this machine, small: one table of what every benchmark is to reach
	$(BIN)/python -m benchmarks.suite --small

bench-gpu: install ## Measure tagging on a CUDA device
	$(BIN)/python -m benchmarks.gpu

lock: ## Resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --all-extras pyproject.toml -o requirements.lock

clean: ## Remove what the targets made
	rm -rf $(VENV) demo site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
