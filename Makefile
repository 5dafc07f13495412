# make demo    environment, export of the default pair with its parity table, an index of the sample corpus, five searches
# make test    environment, all tests (kernels also with the JIT off) but those that take minutes each
# make test-full   those too: both Efficient SPLADE pairs at their real sizes (6 GB, 10 minutes)
# make fuzz    10,000 random mutations of indexes and artifacts: an error that names the file, or the very same answers;
#              10,000 forgeries whose checksums fit: an error or answers, within 60 s and 2 GB, nothing outside touched
# make soak    a writer of an index, killed 1,000 times, cut at every file operation, and swapped, unlocked… there; 1,000 forks
#              of processes that search, load and write (35 minutes)
# make lint    ruff and mypy        make bench   the figures of the README (see benchmarks/README.md)
# make dist    dist/*.whl with the default pair inside, tried in an environment of its own
# make clean   remove everything the above made

PYTHON ?= python3
CONSTRAINTS := .ci/constraints.txt
DEMO := .venv/bin
TEST := .venv-test/bin
# Set-up must not reach for a hub: nothing here downloads a model.
export HF_HUB_OFFLINE = 1

.PHONY: demo test test-full soak fuzz lint dist bench clean
.DELETE_ON_ERROR:

demo: .venv/ready
	PATH="$(CURDIR)/$(DEMO):$$PATH" sh ./benchmarks/demo.sh

test-full: test
	$(TEST)/python -m pytest -m slow

test: .venv-test/ready
	$(TEST)/python -m pytest -n 2 --dist loadgroup
	NUMBA_DISABLE_JIT=1 $(TEST)/python -m pytest -n 2 tests/runtime/test_scorer.py tests/runtime/test_taat.py tests/runtime/test_upper_bounds16.py tests/runtime/test_block_max.py tests/runtime/test_index.py tests/runtime/test_decoder.py tests/runtime/test_split.py tests/runtime/test_idf.py

soak: .venv-test/ready
	$(TEST)/python -m benchmarks.soak --kills 1000 --cuts --swaps
	$(TEST)/python -m tests.storm --forks 1000

fuzz: .venv-test/ready
	$(TEST)/python -m tests.fuzz --mutations 10000 --forgeries 10000

lint: .venv-test/ready
	$(TEST)/ruff check .
	$(TEST)/ruff format --check .
	# mypy does not follow editable installs: show it the package as it is installed
	mkdir -p .venv-test/src/splade_edge
	for room in models export runtime; do ln -sfn "$(CURDIR)/$$room" .venv-test/src/splade_edge/$$room; done
	MYPYPATH=.venv-test/src $(TEST)/python -m mypy \
		-p splade_edge.models -p splade_edge.export -p splade_edge.runtime
	MYPYPATH=.venv-test/src $(TEST)/python -m mypy tests benchmarks export/optimum_register/splade.py

dist: .venv-test/ready
	sh ./.ci/dist $(TEST)

bench: .venv-bench/ready .venv-bench-runtime/ready
	.venv-bench/bin/python -m benchmarks --runtime-python .venv-bench-runtime/bin/python

# One environment a purpose, with exact pins; made again when the pins or the dependencies change.
.venv/ready: extras = export,openvino,eval
.venv-test/ready: extras = dev
.venv-bench/ready: extras = dev
.venv-bench-runtime/ready: extras = openvino
.venv-bench/ready: .ci/peers.txt
.venv/ready .venv-test/ready .venv-bench/ready .venv-bench-runtime/ready: $(CONSTRAINTS) pyproject.toml
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[$(extras)]'
	$(if $(filter .venv-bench/ready,$@),grep -v '^#' .ci/peers.txt | while read -r peer; do \
		$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$$peer" || \
		echo "$$peer cannot be installed here; the benchmarks go on without it"; done)
	touch $@

clean:
	rm -rf .venv .venv-test .venv-bench .venv-bench-runtime build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
