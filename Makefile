# Two commands: `make demo` trains and predicts on real handwritten digits; `make test` runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR := runs/demo

.PHONY: demo test lint clean

demo: $(VENV)/installed
	$(BIN)/glocal train digits --model transxnet_pico --output $(DEMO_DIR) --overwrite
	$(BIN)/glocal predict $(DEMO_DIR)/samples/*.png --checkpoint $(DEMO_DIR)

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto  # a process per core is faster than threads

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

clean:
	rm -rf $(VENV) runs
