# Each target makes .venv by itself, with the exact versions of constraints.txt, and does the job.
PYTHON ?= python3
BIN := .venv/bin

# Tables in miniature that are here; `python -m bioshare table NAME` trains and writes more
STUDIES := early realism realism_2 controls questions questions_2 patches_digits patches_cifar10-16
STUDIES := $(wildcard $(STUDIES:%=figures/%.nc))

.PHONY: figures explore notebooks docs linkcheck test lint types clean

define install
	$(PYTHON) -m venv .venv
	@echo "Installing bioshare[$(1)] into .venv: some minutes, the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(1)]"
	touch $@
endef

.venv/installed: pyproject.toml constraints.txt
	$(call install,dev)

.venv/notebook: pyproject.toml constraints.txt
	$(call install,notebook)

figures: .venv/notebook
	$(BIN)/python figures/fig3.py
	$(BIN)/python figures/fig4.py
	$(BIN)/python figures/fig5.py
	$(BIN)/python figures/fig6.py
	$(BIN)/python figures/stop_early.py
	$(BIN)/python figures/asleep.py
	$(BIN)/python figures/concepts.py
	$(if $(wildcard figures/small.nc),$(BIN)/python figures/small.py)
	$(foreach table,$(wildcard figures/feedback.nc figures/signs.nc),$(BIN)/python figures/angles.py $(table) &&) true
	$(if $(STUDIES),$(BIN)/python figures/studies.py $(STUDIES))
	$(if $(wildcard figures/lifted_digits.nc),$(BIN)/python figures/relax.py figures/lifted_digits.nc --to figures/lifted_digits)

explore: .venv/notebook
	$(BIN)/python -m bioshare explore

notebooks: .venv/notebook
	$(BIN)/jupyter lab notebooks

docs: .venv/installed
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky -b html docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html

linkcheck: .venv/installed
	$(BIN)/sphinx-build -b linkcheck docs docs/_build/linkcheck

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis docs/_build tests/artefacts
