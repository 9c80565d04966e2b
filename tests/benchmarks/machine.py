"""What a measurement was made on: chip, cores and versions; nothing that names it."""

import importlib.metadata
import os
import pathlib
import platform
import re
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "dpjax", "jax-privacy", "numpy")


def describe() -> dict[str, Any]:
    """Return the backend, the chip's name, the cores in use, and versions."""
    device = jax.devices()[0]
    gpu = device.platform == "gpu"
    return {
        "backend": device.platform,
        "chip": device.device_kind if gpu else cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
    }


def cpu_name() -> str:
    """Return the processor's name as the kernel tells it, or its architecture."""
    path = pathlib.Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    found = re.search(r"^model name\s*: *(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
