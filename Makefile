# `make demo` trains and predicts on real handwritten digits, `make demo-segment` segments objects on photographs,
# `make demo-detect` finds them, `make test` runs the tests. Each installs what it needs into .venv first, the tests
# everything. TORCH_INDEX: a package index with torch's builds for CPUs, where the one that pip uses has none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
# Python compiles a file when it first imports it; pip would compile all 24,000, for more than a minute.
INSTALL := $(PIP) install --no-compile
DEMO_DIR := runs/demo
TORCH_INDEX ?=
CPU_TORCH := $(foreach name,torch torchvision,$(shell sed -n 's/^\($(name)==[0-9.]*\).*/\1+cpu/p' constraints.txt))

.PHONY: demo demo-segment demo-detect test lint clean

demo: $(VENV)/demo
	$(BIN)/glocal train digits --model transxnet_pico --output $(DEMO_DIR) --overwrite
	$(BIN)/glocal predict $(DEMO_DIR)/samples/*.png --checkpoint $(DEMO_DIR)

demo-segment: $(VENV)/demo
	$(BIN)/glocal train shapes --data-args '{size: 64}' --model van_pico --head semantic_fpn --epochs 16 --lr 0.004 \
		--no-photometric --resize-range 0.75,1.5 --output $(DEMO_DIR)-segment --overwrite
	$(BIN)/glocal predict $(DEMO_DIR)-segment/samples/*.png --checkpoint $(DEMO_DIR)-segment \
		--pictures $(DEMO_DIR)-segment/drawn

demo-detect: $(VENV)/demo
	$(BIN)/glocal train shapes --task detection --model van_pico --head retinanet --head-args '{width: 64, depth: 2}' \
		--epochs 12 --batch-size 8 --lr 0.002 --clip-grad 1 --no-photometric --output $(DEMO_DIR)-detect --overwrite
	$(BIN)/glocal predict $(DEMO_DIR)-detect/samples/*.png --checkpoint $(DEMO_DIR)-detect \
		--pictures $(DEMO_DIR)-detect/drawn

# A process per core is faster than threads; the threads of the tests that need two sleep while they wait. worksteal
# keeps the tests of a file together, so that what they share is made once. Compiled files are kept even where the
# environment says otherwise: some tests start a Python, which would compile all of torch again, for ten seconds.
test: $(VENV)/installed
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

$(VENV)/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@if $(PIP) show --quiet torch 2>/dev/null || [ "$$(uname -s)" != Linux ] || ls /dev/nvidia[0-9]* >/dev/null 2>&1; then \
		:; \
	elif echo "No GPU here: trying torch's build for CPUs (2 GB on disk with the rest)." && \
		$(INSTALL) $(CPU_TORCH) $(TORCH_INDEX:%=--extra-index-url %) 2>/dev/null; then \
		:; \
	else \
		echo "The package index has none: installing the one for GPUs, which also runs without (2.6 GB to download, 6 GB"; \
		echo "on disk, 2 to 6 minutes). 'make demo TORCH_INDEX=ADDRESS' takes the smaller one from an index that has it."; \
	fi
	$(INSTALL) --editable '.[train]' --constraint constraints.txt
	touch $@

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Installing everything that the tests need into $(VENV): 7 GB on disk, 5 to 10 minutes."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[dev]' --constraint constraints.txt
	touch $(VENV)/demo $@

clean:
	rm -rf $(VENV) runs
