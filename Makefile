# make run    set everything up and run the demo        make test     set up and run all checks
# make setup  only set up                               make restore  after dvc pull: bless what was pulled
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3.11
BIN := .venv/bin
# Commands of the environment first, so that rules and DVC find them.
export PATH := $(CURDIR)/$(BIN):$(PATH)
CORES ?= all

.PHONY: run test setup check lock restore repro neighbours bench bench-gpu clean

run: setup
	snakemake --cores $(CORES) --prioritize results/done/first
	@gcl report --compare
	@echo "tables: results/tables/summary.md   page: results/report.html"

# Two workers with a thread each: with as many threads as cores they wait for each other.
test: setup check
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder

check: setup
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	mypy
	lint-imports --no-cache
	snakemake --cores 1 -n --quiet all > /dev/null
	snakemake --cores 1 -n --quiet all -- results/done/prepared results/done/clip_lite > /dev/null
	for name in paper fixtures emoji neighbours eleven ablations mixbench documents image_tokens; do \
	  snakemake --cores 1 -n --quiet all --configfile config/$$name.yaml > /dev/null; done

setup: .venv/done

.venv/done: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

lock:
	$(BIN)/python -m pip install --quiet --upgrade --editable '.[dev]'
	# Both fill the same folder, and the one for GPUs runs on a CPU too.
	$(BIN)/python -m pip uninstall --quiet --yes onnxruntime
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps onnxruntime-gpu
	{ echo "# Exact versions of everything; \`make setup\` installs these. Made by \`make lock\`."; \
	  $(BIN)/python -m pip freeze --exclude-editable; } > requirements.lock
	$(MAKE) workflow/envs/gcl.yaml

# The same versions for --use-conda.
workflow/envs/gcl.yaml: requirements.lock
	{ echo "# Made by \`make lock\` from requirements.lock, for snakemake --use-conda."; \
	  printf 'channels: [conda-forge]\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n'; \
	  sed -n '/^[^#]/s/^/      - /p' requirements.lock; } > $@

# After `dvc pull` the files are right but their times are not: write Snakemake's records anew, without
# running a job, and only if DVC finds every file as dvc.lock says.
restore: setup
	dvc pull
	dvc status | tee /dev/stderr | grep -q "up to date"
	snakemake --cores 1 --touch --forceall --quiet all

repro: setup
	dvc repro

# Each neighbouring method once: results/eleven/neighbours.md.
neighbours: setup
	snakemake --cores $(CORES) --configfile config/eleven.yaml --prioritize results/eleven/rerankers/clip_lite/cl_t05/joint
	python scripts/neighbours.py

# An hour and more, 12 GB of disk, peers in the same processes; writes results/benchmarks/ and results/tables/performance.md.
BENCHMARKS := machine loss topk embedding variants training startup growth retrieval_memory collection cutoff scale
bench: run
	python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	for name in $(BENCHMARKS); do python benchmarks/$$name.py; done
	python -m gcl.report.performance --benchmarks results/benchmarks --output results/tables/performance.md

# The same tables of a GPU, to results/benchmarks/*_cuda.json.
bench-gpu: setup
	for name in machine loss topk embedding training; do python benchmarks/$$name.py --device cuda; done
	python -m gcl.report.performance --benchmarks results/benchmarks --output results/tables/performance.md

clean:
	rm -rf results/* .snakemake
