# `make` or `make help` lists the targets; each works on a fresh clone.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench
BIN := .venv/bin
STAMP := .venv/installed

# Installs when the environment is missing or older than what it was made from.
$(STAMP): pyproject.toml constraints-cpu.txt scripts/setup_environment.sh
	@./scripts/setup_environment.sh

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make or update .venv for this machine
	@./scripts/setup_environment.sh

demo: $(STAMP) ## train a tiny model on handwritten digits, ask it held-out questions, write a report
	$(BIN)/smolvlm2 demo --output runs/demo

test: $(STAMP) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

check: $(STAMP) ## lint, format, types, imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## measure speed and memory; results in benchmarks/results
	@set -e; for file in $$(grep -ls '__main__' benchmarks/*.py); do \
	  echo "== $$file"; $(BIN)/python "$$file"; done
