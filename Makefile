PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
FOLDERS := pirol compiler prim passes kernels bench
TYPED := build/typed/pirol
# A file's tests run in one process; each holds Paddle, so there are at most four. Files
# are taken in the order that tests/conftest.py gives them. A process that ends ends the run.
WORKERS := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
           --max-worker-restart 0
SOURCES := $(wildcard compiler/native/*.c compiler/native/*.h)
# A package may lie one folder below a mapped folder.
PACKAGES := $(sort $(wildcard $(addsuffix /__init__.py,$(FOLDERS)) \
                             $(addsuffix /*/__init__.py,$(FOLDERS))))

.PHONY: all demo test quick lint fuzz clean typed FORCE
all: $(STAMP)

# Holds the list of packages and changes only when the list does, so that a new
# package folder leads to a new install.
build/packages: FORCE
	@mkdir -p build
	@echo '$(PACKAGES)' | cmp -s - $@ || echo '$(PACKAGES)' > $@

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(STAMP): pyproject.toml CMakeLists.txt $(SOURCES) build/packages | $(BIN)/python
	$(BIN)/python -m pip install -q 'scikit-build-core>=0.11' 'cmake>=3.20' 'ninja>=1.11'
	$(BIN)/python -m pip install -q --no-build-isolation -e '.[dev]'
	@# The import hook suffices; the folders listed beside it (this one and the one
	@# above) would let stray files there stand for modules.
	@sed -i.bak '/^\//d' .venv/lib/python*/site-packages/_editable_skbc_pirol.pth
	@rm -f .venv/lib/python*/site-packages/_editable_skbc_pirol.pth.bak
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m pirol.bench.demo

test: $(STAMP)
	$(BIN)/python -m pytest -q -m "not slow" $(WORKERS)

quick: $(STAMP)
	$(BIN)/python -m pytest -q -x -m "not slow and not full" $(WORKERS)

fuzz: $(STAMP)
	$(BIN)/python -m pytest -q -m slow --hypothesis-profile=fuzz

# The packages under their installed names, for mypy: links, so always current.
typed:
	@rm -rf $(TYPED) && mkdir -p $(TYPED)
	@ln -s $(CURDIR)/pirol/* $(TYPED)/
	@for f in $(filter-out pirol,$(FOLDERS)); do ln -s $(CURDIR)/$$f $(TYPED)/$$f; done

lint: $(STAMP) typed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=build/typed $(BIN)/mypy -p pirol

clean:
	rm -rf build .venv .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
