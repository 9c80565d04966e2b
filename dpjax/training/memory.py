"""The microbatch size of a run, where it is to be found.

It depends on shapes and the budget only, so it is public: config.json has it, with the
bytes by which it was chosen, and a resumed run takes it from there.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np

from dpjax.clipping import memory
from dpjax.training import folder
from dpjax.training.request import Request
from dpjax.training.sources import Chunk
from dpjax.training.state import TrainState
from dpjax.training.step import make_gradient

AUTO = "auto"
"""The microbatch size that stands for the largest that fits."""


def settled(
    request: Request, state: TrainState, chunk: Chunk, key_words: jax.Array
) -> tuple[Request, dict[str, Any] | None]:
    """Return the request with a microbatch size, and how it was found.

    Args:
      request: what was asked for.
      state: before the first step.
      chunk: shapes and dtypes of a chunk.
      key_words: uint32, `(2,)`.

    Returns:
      The request, its microbatch size no longer "auto"; and a JSON object, or None
      where the size was given: "memory_budget" (as asked for), "budget" (in bytes),
      "size", "bytes" (that its gradient takes), "next_size" and "next_bytes" (of the
      next larger one, which does not fit).

    Raises:
      MemoryBudgetError: no size fits.
    """
    if request.loss.microbatch_size != AUTO:
        return request, None
    found = _saved(request.run_dir) if request.resume else None
    if found is None:
        found = _measured(request, state, chunk, key_words)
    loss = dataclasses.replace(request.loss, microbatch_size=found["size"])
    asked = {"memory_budget": request.memory_budget}
    plain = dataclasses.replace(request, loss=loss, memory_budget=None)
    return plain, found | asked


def _measured(
    request: Request, state: TrainState, chunk: Chunk, key_words: jax.Array
) -> dict[str, Any]:
    def make(size: int) -> Any:
        loss = dataclasses.replace(request.loss, microbatch_size=size)
        return make_gradient(request.mechanism, loss)

    found = memory.largest_microbatch_size(
        make,
        *(state, chunk.rows, chunk.mask, key_words, np.uint32(0)),
        batch_size=chunk.mask.shape[0],
        memory_budget=request.memory_budget,
    )
    return found._asdict()


def _saved(run_dir: pathlib.Path | None) -> dict[str, Any] | None:
    """Return what the run that is resumed has found, or None where it was given."""
    if run_dir is None:
        return None
    path = run_dir / folder.CONFIG
    try:
        return json.loads(path.read_text())["training"].get("memory")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise folder.RunFolderError(
            f"Expected a readable JSON file ({error}), got {path.name}={str(path)!r}."
        ) from error
