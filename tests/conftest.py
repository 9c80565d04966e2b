"""What must be set before JAX is imported, and what every test shares."""

import os
import pathlib
import sys

import hypothesis

# Two fake devices on a CPU, so that sharding is tested everywhere.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)

# The examples are scripts, not a package: they import each other by their bare names.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))

# The same cases in every run, and no time limit on a shared machine.
hypothesis.settings.register_profile(
    "dpjax", derandomize=True, deadline=None, database=None
)
hypothesis.settings.load_profile("dpjax")

# Run by an interpreter of their own, which has what they import.
collect_ignore_glob = [
    "benchmarks/opacus_accounting.py",
    "benchmarks/opacus_audits.py",
    "benchmarks/opacus_defects.py",
    "benchmarks/opacus_networks.py",
    "benchmarks/opacus_worker.py",
    "benchmarks/tensorflow_defects.py",
]
