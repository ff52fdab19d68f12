# make demo   from nothing to synthetic brains in runs/demo, on two CPU cores, within minutes
# make check  lint, and the tests that compile no large program: three minutes on two cores, before every commit
# make test   every test; ISA=AVX2 (or SSE4_2): compiled as for a processor that has no more; TESTS=tests/layers: these alone
# make test-tpu   the tests of planning that need the TPU's compiler as well
# make soak   what runs withstand: kills, full disks, flipped bits, damaged files (docs/reliability.md); ten minutes, or
#             MINUTES=60; SEED=1; ONLY=kills,fuzz; COUNT=20 tries of each; FIRST=7, the first of them
# make lint   ruff and the floors of the house (import-linter)
# make .venv/tpu, make .venv/gpu   the compilers of machines that are not there, for --mode=plan
# make .venv  the environment alone; PYTHON=python3.12 picks another interpreter

PYTHON ?= python3
RUN = .venv/bin/python

.PHONY: demo check test test-tpu soak lint

# Two virtual devices, the batch split over them: two cores wait for each other less than with one device.
demo: export XLA_FLAGS = --xla_force_host_platform_device_count=2
demo: .venv
	$(RUN) launch.py --config=configs/atlas.py:demo --workdir=runs/demo --mode=train
	$(RUN) launch.py --config=configs/atlas.py:demo --workdir=runs/demo --mode=sample
	@echo
	@echo "trained model   runs/demo/checkpoints"
	@echo "loss curves     runs/demo/metrics.jsonl, or: tensorboard --logdir=runs/demo"
	@echo "volumes         runs/demo/samples/sample_00000.nii.gz ... (any radiology viewer)"
	@echo "picture         runs/demo/samples/montage.png (first row real, the others generated)"

# A file of tests may take so many seconds of a processor, or is listed in tests/helpers/long_tests.py.
check: .venv lint
	$(RUN) -m pytest --numprocesses=2 --dist=loadfile -m "not long and not slow" --seconds=40

ifdef ISA
test: export XLA_FLAGS := $(XLA_FLAGS) --xla_cpu_max_isa=$(ISA)
endif
test: .venv
	$(RUN) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --durations=15 $(TESTS)

MINUTES ?= 10
SEED ?= 0
soak: .venv
	PYTHONPATH=tests $(RUN) -m soak --minutes=$(MINUTES) --seed=$(SEED) --only=$(ONLY) $(if $(FIRST),--first=$(FIRST)) \
	    $(if $(COUNT),--count=$(COUNT)) $(SOAK)

# Not in the environment itself, where every run of JAX would look for a TPU and say that it found none.
test-tpu: .venv/tpu/complete
	PYTHONPATH=.venv/tpu $(RUN) -m pytest tests/xla/test_topologies.py tests/xla/test_cost.py

# Compilers for machines that are not there, for --mode=plan.
.venv/tpu: .venv/tpu/complete
.venv/gpu: .venv/gpu/complete

.venv/tpu/complete: .venv/complete
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --target .venv/tpu libtpu
	touch .venv/tpu/complete

# Of the very version of JAX; without what CUDA needs to run, which compiling does not.
.venv/gpu/complete: JAX = $(shell .venv/bin/python -c "import importlib.metadata as m; print(m.version('jax'))")
.venv/gpu/complete: .venv/complete
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps --target .venv/gpu \
	    jax-cuda12-plugin==$(JAX) jax-cuda12-pjrt==$(JAX)
	touch .venv/gpu/complete

lint: .venv
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports

.venv: .venv/complete

.venv/complete: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	touch .venv/complete
