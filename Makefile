# Every target works from a fresh clone with nothing but Python, g++ and make.
PYTHON ?= python3
VENV := .venv
MACHINE ?= here
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet -c constraints/ci.txt

.PHONY: demo test test-adapters bench baselines study-kernels study-components study-criteria study-claims study-deployment study-pass docs \
	lint sanitize release-check clean

demo: $(VENV)/installed  ## prune a trained CIFAR-10 network on real images, in minutes
	$(BIN)/pyprune-fast prune --out demo-output

test: $(VENV)/installed  ## all tests and all runnable examples
	$(BIN)/python -m pytest

# What fasterai asks for without what it would change: torch, and the packages that are here.
FASTERAI := fasterai==0.4.1 fastai==2.8.12 fastcore==2.2.41 fastprogress==1.0.5 fasttransform==0.0.5 plum-dispatch==2.9.0 \
  beartype==0.23.1 einops==0.8.2 fastdownload==0.0.8 pandas==3.1.1 torchvision==0.28.0

test-adapters: $(VENV)/installed  ## what the tests leave out: JAX, Model Optimizer, torchao, fasterai
	$(PIP) jax nvidia-modelopt torchao
	$(BIN)/python -m pytest tests/test_arrays.py tests/test_adapter_modelopt.py tests/test_adapter_torchao.py
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/peers/fasterai $(FASTERAI)
	PYTHONPATH=$(VENV)/peers/fasterai $(BIN)/python -m pytest tests/test_adapter_fasterai.py

bench: $(VENV)/installed  ## one table: every kernel beside its limit and its peers
	$(PIP) -e '.[peers]' --no-build-isolation
	$(BIN)/python bench/kernels.py

study-kernels: $(VENV)/installed  ## every kernel beside its peers, how they scale, and a cost model; MACHINE=name of the results
	$(PIP) -e '.[peers]' --no-build-isolation
	OMP_NUM_THREADS=1 $(BIN)/python bench/kernels.py --json bench/results/cpu-$(MACHINE).json
	PYTHONPATH=bench:bench/studies OMP_NUM_THREADS=1 $(BIN)/python bench/studies/kernel_scaling.py
	PYTHONPATH=bench:bench/studies $(BIN)/python bench/studies/benchmark_page.py

study-components: $(VENV)/installed  ## coefficients under PSNR, on real digits, and under an agent's return: hours on one core
	for part in autoencoder agent safety plots; do \
	  PYTHONPATH=bench:bench/studies OMP_NUM_THREADS=1 $(BIN)/python bench/studies/components/$$part.py || exit; \
	done

study-criteria: $(VENV)/installed  ## every criterion on two trained CIFAR-10 networks: an hour, resumable; QUICK=1: seconds
	PYTHONPATH=bench/studies OMP_NUM_THREADS=1 $(BIN)/python bench/studies/criteria.py $(if $(QUICK),--quick)

baselines: $(VENV)/installed  ## trains the networks of study-criteria anew, with logs: an hour of one core
	PYTHONPATH=bench/studies OMP_NUM_THREADS=1 $(BIN)/python bench/studies/train_baselines.py

study-deployment: $(VENV)/installed  ## latency before and after pruning in PyTorch, torch.compile and ONNX Runtime, resumable: minutes
	PYTHONPATH=bench:bench/studies OMP_NUM_THREADS=1 $(BIN)/python bench/studies/deployment.py

study-pass: $(VENV)/installed  ## what scoring costs beside the forward pass, and pruning end to end: minutes
	PYTHONPATH=bench:bench/studies OMP_NUM_THREADS=1 $(BIN)/python bench/studies/whole_pass.py

study-claims: $(VENV)/installed  ## the paper's claims, each with a verdict, in minutes; QUICK=1: seconds, for trying, into build/
	$(if $(QUICK),mkdir -p build && cp docs/claims.md build/)
	PYTHONPATH=bench:bench/studies OMP_NUM_THREADS=1 $(BIN)/python bench/studies/claims.py \
	  $(if $(QUICK),--quick --json build/study-claims.json --docs build/claims.md,--json bench/results/study-claims.json)

docs: $(VENV)/installed  ## the documentation site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lint: $(VENV)/installed  ## style, types, formats
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'csrc/*.inl' 'tests/native/*.h' 'tests/native/*.cpp' 'tests/native/*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

sanitize: $(VENV)/installed  ## the kernel tests under AddressSanitizer and UndefinedBehaviorSanitizer
	bash tests/sanitize.sh $(BIN)/python

release-check: $(VENV)/installed  ## what would be published, built and tried in an environment of its own
	$(BIN)/python -m pytest -q tests/test_packaging.py

clean:
	rm -rf $(VENV) build demo-output site *.egg-info pyprune_fast/*.so

# Build isolation is left out so that a second build reuses the first one's objects.
$(VENV)/installed: pyproject.toml setup.py constraints/ci.txt $(shell find csrc -type f)
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) torch setuptools wheel pybind11
	$(PIP) --no-build-isolation -e '.[test,lint]'
	for version in 1.3.7 1.5.3; do \
	  $(BIN)/pip install --quiet --no-deps --upgrade --target $(VENV)/peers/torch-pruning-$$version torch-pruning==$$version || exit; \
	done
	$(PIP) --no-deps onnx2torch  # it asks for torchvision, which adapters/onnx.py does without
	touch $@
