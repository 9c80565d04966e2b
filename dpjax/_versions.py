"""Which versions a program runs on: what its numbers may depend on."""

import importlib.metadata
import platform
from collections.abc import Iterable


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package that is installed, and of Python."""
    versions = {name: _version(name) for name in packages}
    return versions | {"python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
