# From a clone to a running node: `make demo`. Everything stays in .venv; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
OUT ?= demo-out
TESTS ?=
# A file's tests share what they make, so a file is one worker's; the long ones, first in order, start first.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The first Python of a version that the node runs on; `make PYTHON=/path/to/python` names another.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
ifndef PYTHON
PYTHON := $(shell for name in python3 python3.13 python3.12 python3.11; do \
	$$name -c '$(SUPPORTED)' 2>/dev/null \
	&& { command -v $$name; break; }; done)
endif

.PHONY: help
help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: prerequisites
prerequisites:
	@[ "$$(uname -sm)" = "Linux x86_64" ] \
		|| { echo "Linux on x86-64 is needed; this machine is $$(uname -sm)" >&2; exit 1; }
	@command -v git >/dev/null || { echo "git is needed; on Debian: apt-get install git" >&2; exit 1; }
	@"$(or $(PYTHON),false)" -c '$(SUPPORTED)' 2>/dev/null \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed; on Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "$(PYTHON) lacks venv; on Debian: apt-get install python3-venv" >&2; exit 1; }

# A stamp says what is installed; it is older than its reasons only where something must be installed anew.
$(VENV)/.core: pyproject.toml constraints.txt | prerequisites
	@[ -x $(BIN)/python ] || { echo "making $(VENV) with $(PYTHON)"; "$(PYTHON)" -m venv $(VENV); }
	@echo "installing the node (about a minute)"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	@echo "installing what the tests need"
	@$(INSTALL) --editable '.[test,postgres,video,oidc,train]'
	@$(INSTALL) --no-deps simple-lama-inpainting==0.1.2
	@touch $@

$(VENV)/.check: $(VENV)/.core
	@echo "installing what the checks need"
	@$(INSTALL) --editable '.[check]'
	@touch $@

.PHONY: setup
setup: $(VENV)/.core ## make .venv and install the node
	@echo "ready: $(BIN)/endonode --help"

# keras-ocr needs TensorFlow 2.15 and numpy 1, so it lives apart; docs/keras-ocr.md.
KERAS_PYTHON ?= python3.11
.PHONY: setup-keras-ocr
setup-keras-ocr: ## make .venv-keras-ocr for the keras-ocr text detector (1.8 GB)
	@"$(KERAS_PYTHON)" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info < (3, 12))' 2>/dev/null \
		|| { echo "Python 3.9, 3.10 or 3.11 is needed: make setup-keras-ocr KERAS_PYTHON=..." >&2; exit 1; }
	"$(KERAS_PYTHON)" -m venv .venv-keras-ocr
	.venv-keras-ocr/bin/python -m pip install --quiet "tensorflow-cpu==2.15.1" "numpy<2" "keras-ocr==0.9.3"
	@.venv-keras-ocr/bin/python -I -c 'import keras_ocr' && echo "ready: .venv-keras-ocr/bin/python"

.PHONY: demo
demo: $(VENV)/.core ## send a painted study through a node (FRAMES=DIR: images of a folder)
	@$(BIN)/python -m node demo --out "$(OUT)" $(if $(FRAMES),--frames "$(FRAMES)")

.PHONY: peers
peers:
	@deploy/install-peers.sh

# What holds the node to times and to memory has the machine to itself: `alone`. 5: no such test was asked for.
.PHONY: test
test: $(VENV)/.test peers ## install what the tests need and run all of them (TESTS=PATH: some; WORKERS=N)
	@$(PYTEST) -m "not acceptance and not alone" $(TESTS) || [ $$? -eq 5 ]
	@$(BIN)/pytest -m "alone and not acceptance" $(TESTS) || [ $$? -eq 5 ]
	@if deploy/install-peers.sh --have; then \
		{ $(PYTEST) -m "acceptance and not alone" $(TESTS) || [ $$? -eq 5 ]; } && \
		{ $(BIN)/pytest -m "acceptance and alone" $(TESTS) || [ $$? -eq 5 ]; }; else \
		echo "Debian's orthanc, dcmtk, dicom3tools are not all here; left out therefore:"; \
		$(BIN)/pytest -q --collect-only -m acceptance $(TESTS) | sed -n 's/^\(tests.*::.*\)/  \1/p'; fi

.PHONY: check
check: $(VENV)/.check $(VENV)/.test ## lint, types, import rules, licences; count the lines
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	@for package in node pipeline models db; do \
		printf '%-10s %6d lines of Python\n' $$package \
			"$$(git ls-files "$$package/*.py" | tr '\n' '\0' | xargs -0r cat | wc -l)"; done

.PHONY: acceptance
acceptance: $(VENV)/.test peers ## run the acceptance tests with full counts (long)
	$(BIN)/pytest -m acceptance --full $(TESTS)

BENCHES := $(patsubst tests/benchmarks/bench_%.py,bench-%,$(wildcard tests/benchmarks/bench_*.py))

.PHONY: bench $(BENCHES)
bench: $(BENCHES) ## run every benchmark of tests/benchmarks; bench-ingest runs bench_ingest.py alone

$(BENCHES): bench-%: $(VENV)/.test peers
	$(BIN)/python tests/benchmarks/bench_$*.py

.PHONY: coverage
coverage: $(VENV)/.test peers ## run the tests and show the lines that none of them runs (slower)
	$(BIN)/pytest --cov --cov-report term-missing:skip-covered $(TESTS)

RUN ?= reference-run
REFERENCE_DATA := ../shared/data
.PHONY: reference-model
reference-model: $(VENV)/.test ## train models/reference anew from ../shared/data (RUN=DIR goes on)
	$(BIN)/python -m models train --dataset $(REFERENCE_DATA)/pseudo_patients.csv --root $(REFERENCE_DATA) \
		--weights $(REFERENCE_DATA)/weights/mobilenet_v2_imagenet_dequant_fp32.onnx --out $(RUN)
	$(BIN)/python -m models quantize --run $(RUN)
	$(BIN)/python -m models calibrate --run $(RUN)
	$(BIN)/python -m models foreign --run $(RUN) --data $(REFERENCE_DATA)
	$(BIN)/python -m models package --run $(RUN) --out models/reference --name endonode-reference-mobilenetv2 \
		--version 1.1.1
	cp $(RUN)/oof_float.csv $(RUN)/oof_int8.csv docs/results/

.PHONY: report
report: $(VENV)/.test ## write the page of a training, report.html in its folder RUN, and docs/results.md
	$(BIN)/python -m models report --run $(RUN) --findings docs/findings.md --results docs/results.md

.PHONY: instrument-model
instrument-model: $(VENV)/.test ## train pipeline/instruments anew from ../shared/data (half an hour)
	$(BIN)/python -m models.training.instruments --data ../shared/data --out pipeline/instruments

.PHONY: docs
docs: $(VENV)/.check ## write docs/settings.md and docs/dependencies-licences.md
	$(BIN)/python docs/generate.py

.PHONY: leak-study
leak-study: $(VENV)/.test ## measure what artefacts alone tell of the label, before and after the cleaning
	$(BIN)/python tests/studies/artefact_leak.py --data ../shared/data --out docs/results/artefact-leak.json

.PHONY: view-control
view-control: $(VENV)/.test ## measure how much of a reading rests on borders and boxes (RUN=DIR of reference-model)
	$(BIN)/python tests/studies/view_control.py --run $(RUN) --out docs/results/view-control.json

.PHONY: quant-study
quant-study: $(VENV)/.test ## measure what quantising costs, by method and width (RUN=DIR of reference-model; two hours)
	$(BIN)/python tests/studies/quant_study.py --run $(RUN) --out docs/results/quant-study.json

.PHONY: resnet50-reference
resnet50-reference: $(VENV)/.test ## teach a ResNet50 by the reference network and quantise it (RUN=DIR; two hours)
	$(BIN)/python tests/studies/resnet50_reference.py --run $(RUN) --out docs/results/resnet50-reference.json

# Of pip's report: what it would install, without the "+cpu" and the like that one index adds.
LIST_VERSIONS := import json, sys; [print(each["name"], each["version"].split("+")[0], sep="==") \
	for each in (found["metadata"] for found in json.load(sys.stdin)["install"])]

.PHONY: lock
lock: | prerequisites ## write constraints.txt: the newest versions that pyproject.toml allows
	rm -rf .venv-lock && "$(PYTHON)" -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --dry-run --ignore-installed --report .venv-lock/report.json \
		'.[test,postgres,video,oidc,train,check]'
	.venv-lock/bin/python -c '$(LIST_VERSIONS)' < .venv-lock/report.json \
		| grep -Ev '^(endonode|setuptools)==' | LC_ALL=C sort -f > constraints.txt
	rm -rf .venv-lock
