# `make demo` and `make test` take a fresh clone to the end: each makes its own environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What a machine without an accelerate config would be told with a warning each
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

.DEFAULT_GOAL := help
.PHONY: help demo demo-sft base-model test test-fast test-floor test-sharded lint types check bench bench-loss bench-pairs bench-frozen bench-collator bench-sampler bench-data bench-render bench-trust recipes run-off check-data check-intervals fuzz-grading images gpu gpu-wheels gpu-check gpu-loss gpu-step bench-gpu kernel-resources clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Made again when the dependencies change
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY)  ## measure a small LLaVA, train it on pairs on the CPU, measure again, write the report (a minute and a half after set-up)
	$(LAUNCH) examples/llava_kl.py

demo-sft: $(READY)  ## the same without the KL: what plain SFT gives
	$(LAUNCH) examples/llava_kl.py --kl_weight 0 --output_dir outputs/llava_sft

base-model: $(READY)  ## train the model that the demo starts from, again (about 25 minutes on one core)
	$(BIN)/python examples/make_base_model.py

# A worker a core; tests that use several cores, or run against the clock, are in groups (tests/conftest.py)
PYTEST := -m pytest -n auto --dist loadgroup

test: $(READY)  ## the whole suite (about a quarter of an hour on two cores)
	$(BIN)/python $(PYTEST)

test-fast: $(READY)  ## the suite without the slow tests (about eight minutes on two cores)
	$(BIN)/python $(PYTEST) -m "not slow"

FLOOR := trl==1.16.0 transformers==5.19.0 accelerate==1.12.0 datasets==4.8.0 peft==0.18.0 pillow==10.1.0 jinja2==3.1.0 filelock==3.10.0 xxhash==3.0.0
test-floor:  ## the fast tests on the lowest versions that pyproject.toml allows, in an environment of their own
	$(PYTHON) -m venv .venv-floor
	.venv-floor/bin/python -m pip install --quiet --editable '.[dev]' $(FLOOR)
	.venv-floor/bin/python $(PYTEST) -m "not slow"

test-sharded:  ## FSDP2 and DeepSpeed ZeRO on two processes, in an environment of their own (five minutes with set-up)
	$(PYTHON) -m venv .venv-sharded
	.venv-sharded/bin/python -m pip install --quiet --upgrade pip setuptools wheel
	.venv-sharded/bin/python -m pip install --quiet --editable '.[dev]'
	DS_BUILD_OPS=0 .venv-sharded/bin/python -m pip install --quiet --no-build-isolation 'deepspeed>=0.18.6'
	.venv-sharded/bin/python $(PYTEST) tests/training/test_sharded.py tests/training/test_distributed.py tests/parts/test_sharded.py

lint: $(READY)  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint types test  ## everything that continuous integration runs

bench: $(READY)  ## a step without pairs against SFTTrainer, and the loss against its peers (about half an hour)
	$(BIN)/python benchmarks/bench_drop_in.py
	$(BIN)/python benchmarks/bench_loss.py --preset main

bench-loss: $(READY)  ## the loss by tokens, vocabulary, memory and filter, with a picture (about two hours)
	$(BIN)/python benchmarks/bench_loss.py --preset all

bench-pairs: $(READY)  ## a training step on pairs by what can be composed without sharing; memory; padding-free rows (half an hour)
	$(BIN)/python benchmarks/bench_pair_step.py --preset all

bench-frozen: $(READY)  ## a training step by what trains, with features of images from disk too
	$(BIN)/python benchmarks/bench_frozen.py

bench-collator: $(READY)  ## pairs a second, ours and TRL's collator called twice
	$(BIN)/python benchmarks/bench_collator.py

bench-sampler: $(READY)  ## time to the first batch, memory and rows a second of the order, up to a billion rows
	$(BIN)/python benchmarks/bench_sampler.py

bench-trust: $(READY)  ## the health gate by step, the manifest by save (a minute)
	$(BIN)/python benchmarks/bench_trust.py

bench-data: $(READY)  ## generated pairs a second, one core
	$(BIN)/python benchmarks/bench_generators.py

bench-render: $(READY)  ## pairs a second of rendered text, one core, and what OCR finds of them (needs the extra `ocr`; three minutes)
	$(BIN)/python -m pip install --quiet --editable '.[ocr]'
	$(BIN)/python benchmarks/bench_render.py --ocr 12

recipes: $(READY)  ## the study of recipes: what is not in results/recipes.csv yet, by recipe and seed (all: two hours)
	$(BIN)/python benchmarks/recipes.py

run-off: $(READY)  ## which runs without answers run off, and what tells it (eight minutes on two cores)
	$(BIN)/python benchmarks/run_off.py

check-data: $(READY)  ## 10,000 answers of each generator found again in the words of the problem (about ten minutes)
	$(BIN)/python benchmarks/check_generators.py
	$(BIN)/python benchmarks/check_geometry.py

fuzz-grading: $(READY)  ## 100,000 hostile strings through the grading of answers, and 10,000 formulas (about ten minutes)
	$(BIN)/python -m pip install --quiet --editable '.[eval]'
	$(BIN)/python benchmarks/fuzz_grading.py

check-intervals: $(READY)  ## coverage of the intervals of evaluations, beside what was not chosen (a quarter of an hour)
	$(BIN)/python benchmarks/check_intervals.py

images: $(READY)  ## the contact sheets of docs/data.md
	$(BIN)/python docs/make_images.py

# On a machine with a GPU, whose python3 has torch and Triton; everything else comes from a folder of wheels
GPU_WHEELS ?= wheels
GPU_VENV := .venv-gpu
GPU_READY := $(GPU_VENV)/.ready
GPU_RUN := $(GPU_VENV)/bin/python

gpu-wheels:  ## where there is a network: the wheels that `make gpu` needs, into $(GPU_WHEELS)
	$(PYTHON) benchmarks/gpu_wheels.py $(GPU_WHEELS)

$(GPU_READY): $(wildcard $(GPU_WHEELS)/*.whl)
	@test -n "$(wildcard $(GPU_WHEELS)/*.whl)" || { echo "No wheels in '$(GPU_WHEELS)': run 'make gpu-wheels' where there is a network, copy the folder here, and say where it is with GPU_WHEELS=folder."; exit 1; }
	$(PYTHON) -m venv --system-site-packages $(GPU_VENV)
# If that python3 is one of an environment, its packages are none of the system's
	$(PYTHON) -c 'import site; print(*site.getsitepackages(), sep="\n")' > $$($(GPU_RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/machine.pth
	$(GPU_RUN) -m pip install --quiet --no-index --no-deps $(wildcard $(GPU_WHEELS)/*.whl)
	@touch $@

gpu:  ## on a GPU, without a network: all three below (half an hour; docs/gpu.md)
	@failed=0; for each in gpu-check gpu-loss gpu-step; do $(MAKE) $$each || failed=1; done; exit $$failed

gpu-check: $(GPU_READY)  ## on a GPU: what it is and what is chosen there, and the tests that need one (nine minutes)
	timeout 570 $(GPU_RUN) benchmarks/gpu_check.py

gpu-loss: $(GPU_READY)  ## on a GPU: the loss, its peers and its products, time and memory (nine minutes)
	timeout 570 $(GPU_RUN) benchmarks/gpu_loss.py

gpu-step: $(GPU_READY)  ## on a GPU: the step on pairs of a 3B model, time, memory, MFU and idle GPU (nine minutes)
	timeout 570 $(GPU_RUN) benchmarks/gpu_step.py

bench-gpu: $(READY)  ## on a GPU, with a network: what bench-loss does, at the sizes of a GPU
	$(BIN)/python benchmarks/bench_loss.py --preset gpu

kernel-resources: $(READY)  ## registers, spills and bytes per logit of the Triton kernels, compiled without a GPU
	$(BIN)/python benchmarks/kernel_resources.py

clean:  ## remove the environments and the outputs
	rm -rf $(VENV) .venv-floor $(GPU_VENV) outputs build dist
