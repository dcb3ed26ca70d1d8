# `make demo` and `make test` need only Python 3.11 or newer, git and make; everything else is installed into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# Where a CPU build of torch is found (PyPI's Linux wheel brings gigabytes of CUDA). For a GPU: make demo TORCH_INDEX=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# A video of your own: make demo VIDEO=/path/to/video.mp4
VIDEO ?= downloads/sports2d.mp4

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
TORCH := $(shell grep '^torch==' requirements.txt)
CORE := $(VENV)/.core-installed
DEV := $(VENV)/.dev-installed
FILES := downloads/.fetched

.PHONY: demo test lint clean

demo: $(CORE) $(FILES)
	$(PY) demo.py preset=open option=demo demo.video_path=$(VIDEO)

test: $(DEV) $(FILES)
	$(PY) -m pytest

lint: $(DEV)
	$(VENV)/bin/ruff check .

$(PY):
	$(PYTHON) -m venv $(VENV)

# torch first and alone: only it is looked up in TORCH_INDEX, and an unreachable index falls back to PyPI at once.
$(CORE): requirements.txt | $(PY)
	$(PIP) install --quiet --no-deps --retries 0 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) install --quiet -r requirements.txt
	touch $@

$(DEV): requirements-dev.txt $(CORE)
	$(PIP) install --quiet -r requirements-dev.txt
	touch $@

$(FILES): scripts/fetch_demo_files.py | $(PY)
	$(PY) scripts/fetch_demo_files.py
	touch $@

clean:
	rm -rf $(VENV) downloads
