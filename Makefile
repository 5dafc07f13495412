# make demo    environment, export of the default pair with its parity table, an index of the sample corpus, five searches
# make test    environment, all tests (kernels also with the JIT off)
# make lint    ruff and mypy        make bench   the figures of the README (see benchmarks/README.md)
# make clean   remove everything the above made

PYTHON ?= python3
CONSTRAINTS := .ci/constraints.txt
DEMO := .venv/bin
TEST := .venv-test/bin
# Set-up must not reach for a hub: nothing here downloads a model.
export HF_HUB_OFFLINE = 1

.PHONY: demo test lint bench clean
.DELETE_ON_ERROR:

demo: .venv/ready
	PATH="$(CURDIR)/$(DEMO):$$PATH" sh benchmarks/demo.sh

test: .venv-test/ready
	$(TEST)/python -m pytest -n 2 --dist loadgroup
	NUMBA_DISABLE_JIT=1 $(TEST)/python -m pytest -n 2 tests/runtime/test_scorer.py tests/runtime/test_index.py

lint: .venv-test/ready
	$(TEST)/ruff check .
	$(TEST)/ruff format --check .
	$(TEST)/python -m mypy -p splade_edge.models -p splade_edge.export -p splade_edge.runtime
	$(TEST)/python -m mypy tests benchmarks export/optimum_register/splade.py

bench: .venv-bench/ready
	.venv-bench/bin/python -m benchmarks

# One environment a purpose, with exact pins; made again when the pins or the dependencies change.
.venv/ready: extras = export,openvino,eval
.venv-test/ready: extras = dev
.venv-bench/ready: extras = dev
.venv/ready .venv-test/ready: $(CONSTRAINTS) pyproject.toml
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[$(extras)]'
	touch $@

clean:
	rm -rf .venv .venv-test .venv-bench build demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
