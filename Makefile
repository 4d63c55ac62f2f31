# `make demo` and `make test` need Python 3.11 or newer, make and git; everything else goes into .venv.
PYTHON ?= python3
RECIPE ?= text-mlm
BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH="$(CURDIR)" $(QUIET)
# No tool calls home: DVC, Hugging Face, Prefect, MLflow.
QUIET := DO_NOT_TRACK=true DVC_NO_ANALYTICS=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false

.PHONY: help setup voices demo compare test ui check format schema lock clean

help:            ## what there is to say
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

setup: .venv/ready  ## set up .venv from the lock file

.venv/ready: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Unmask needs Python 3.11 or newer; set PYTHON=/path/to/it")'
	$(PYTHON) -m venv .venv || { echo "python3 has no venv; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

voices: setup    ## espeak-ng's synthetic voices, an extra under the GPL, for embedded://voices and spoken-digit
	$(BIN)/python -m pip install --quiet --disable-pip-version-check espeakng-loader==0.2.4

demo: setup      ## run RECIPE (text-mlm) on embedded data and print what it bought
	@$(RUN) python -m tasks.params --check
	@$(RUN) dvc repro report@$(RECIPE)
	@$(RUN) python -m tasks.summary $(RECIPE)

compare: setup   ## run RECIPES where they are not up to date, and put them in one table
	@test -n "$(strip $(RECIPES))" || { echo 'name them: make compare RECIPES="image-simclr image-moco"'; exit 1; }
	@$(RUN) python -m tasks.params --check
	@$(RUN) dvc repro $(addprefix report@,$(RECIPES))
	@$(RUN) python -m tasks.compare $(RECIPES)

test: setup      ## all tests that this machine can run
	$(RUN) pytest --numprocesses logical --maxprocesses 4 --dist loadscope --no-loadscope-reorder

ui: setup        ## Prefect and MLflow on loopback, until Ctrl-C
	@$(RUN) python -m flows.ui

check: setup     ## lint, format, types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: setup    ## put the code in form
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

schema: setup    ## params.schema.json, for editors
	$(RUN) python -m tasks.params > params.schema.json

lock: setup      ## solve the dependencies anew
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --extra develop --strip-extras --no-emit-index-url --no-emit-find-links --no-annotate --no-header --output-file requirements.lock pyproject.toml

clean:           ## remove .venv and caches; data, runs, checkpoints and all histories stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
