# Everything from a fresh machine: `make demo`, `make test`. Needs Python 3.11 or newer; another one: make PYTHON=python3.12 test

PYTHON ?= python3
VENV ?= .venv
SOAK_S ?= 3600
KILLS ?= 200
CADENCE_MIN ?= 10
COMMA := ,
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ROS_PACKAGE := ros2_ws/src/mbrl_control_ros

# Robots of neighbours are not ours to move: topics stay on this machine unless told otherwise.
ifeq ($(ROS_AUTOMATIC_DISCOVERY_RANGE)$(FASTDDS_DEFAULT_PROFILES_FILE)$(RMW_IMPLEMENTATION),)
export ROS_AUTOMATIC_DISCOVERY_RANGE = SYSTEM_DEFAULT
export FASTDDS_DEFAULT_PROFILES_FILE = $(CURDIR)/mbrl_control/stack/loopback.xml
endif

# With a sourced ROS 2 installation its rclpy is used; otherwise ROS 2 comes as wheels.
SYSTEM_ROS := $(shell test -n "$$ROS_DISTRO" && $(PYTHON) -c "import rclpy" 2>/dev/null && echo yes)
EXTRAS := $(if $(SYSTEM_ROS),,ros$(COMMA))agents,bench,dev
VENV_FLAGS := $(if $(SYSTEM_ROS),--system-site-packages)

.PHONY: demo test lint verify soak kills cadence swaps faults clean install
.DEFAULT_GOAL := demo

install: $(STAMP)

$(STAMP): setup.py pyproject.toml $(ROS_PACKAGE)/setup.py $(ROS_PACKAGE)/pyproject.toml
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('Python 3.11 or newer is needed; name one with: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(BIN)/python -m pip install --quiet "setuptools>=64,<80" wheel
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]" --editable $(ROS_PACKAGE)
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/mbrl demo

# Nodes in real time are tested one at a time: tests beside them would take their processor.
test: $(STAMP)
	$(BIN)/python -m pytest -m "not ros" -n auto
	$(BIN)/python -m pytest -m ros

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

# The slow checks: learning from nothing over seeds, planners on known models, refits, bags. About half an hour on two cores.
verify: $(STAMP)
	mkdir -p runs/verify
	for task in cartpole pendulum pendubot acrobot; do \
	  $(BIN)/python benchmarks/learning.py --task $$task --seeds 0-4 --jobs 2 --json runs/verify/$$task.json || exit 1; done
	$(BIN)/python benchmarks/known_model.py --json runs/verify/known_model.json
	$(BIN)/python benchmarks/refit.py --json runs/verify/refit.json
	$(BIN)/python benchmarks/bags.py --json runs/verify/bags.json

# An hour of control under observation: memory, threads, descriptors, missed ticks.
soak: $(STAMP)
	mkdir -p runs
	$(BIN)/python benchmarks/soak.py --seconds $(SOAK_S) --json runs/soak.json --picture runs/soak.png

# kill -9 of every process, KILLS times each, at random instants of live runs: about 50 s for one of each. Goes on where it was interrupted.
kills: $(STAMP)
	mkdir -p runs
	$(BIN)/python benchmarks/kills.py --kills $(KILLS) --json runs/kills.json

# Ticks on time beside planner, trainer at full load and model swaps, bound to cores and not: six parts of CADENCE_MIN minutes.
cadence: $(STAMP)
	mkdir -p runs
	$(BIN)/mbrl bench cadence --minutes $(CADENCE_MIN) --rates 50,100,200 --compare-pinning --json runs/cadence.json

# A thousand model swaps in ten minutes of ticks, and every tenth snapshot bad on purpose.
swaps: $(STAMP)
	mkdir -p runs
	$(BIN)/mbrl bench cadence --minutes $(CADENCE_MIN) --swap-every 0.5 --bad-every 10 --json runs/swaps.json

# The fault table with what the tests of its rows measure, docs/faults.md.
faults: $(STAMP)
	mkdir -p runs
	-$(BIN)/python -m pytest -m "fault and not ros" -n auto --faults-json=runs/faults.json
	-$(BIN)/python -m pytest -m "fault and ros" --faults-json=runs/faults_ros.json
	$(BIN)/python docs/faults.py runs/faults.json runs/faults_ros.json

clean:
	rm -rf $(VENV) build install log .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info $(ROS_PACKAGE)/*.egg-info $(ROS_PACKAGE)/build
	find mbrl_control sim tests $(ROS_PACKAGE) -name __pycache__ -type d -prune -exec rm -rf {} +
