"""Compile each program once for all tests of a module: that is most of their time."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(scope="module", autouse=True)
def kept_compilations(tmp_path_factory):
    """Keep what is compiled; a module that has this by its name does so."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for chosen in (options, before):
        for name, value in chosen.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if chosen is options:
            yield
