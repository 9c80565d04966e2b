"""Where the arrays of a run live: whole on one device, or spread over a mesh of them.

The examples of a batch are split over all devices. Parameters are whole on every device
or split. What follows the gradients (their sum, its noise, the optimizer's state, the
average) is split where a leaf is large enough, so that a device draws the noise of its
own part and of no other. XLA works out from this what devices exchange.
"""

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dpjax import _check
from dpjax.noise import draws
from dpjax.types import ArrayTree, Params

_AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Placement:
    """How a run is spread over devices.

    The numbers of a run do not depend on it, but for the rounding of sums over the
    examples; batches, noise and what is spent are the same to the last bit.

    Attributes:
      mesh: from `jax.make_mesh`, with devices of every process. Examples are split over
        all of its axes, parameters and the optimizer's state over the last. None has
        one axis, "data", of all devices; one of `jax.devices()[0]` alone is a run on
        one device.
      shard_params: whether each device holds only its part of the parameters (FSDP, or
        ZeRO 3), gathered for each gradient; else it holds them whole, and its part of
        the optimizer's state only (ZeRO 1). In the first case, the arrays in
        `FitResult` are split, too.
      smallest_split: values of the smallest leaf that is split, along the largest axis
        that the devices divide; others are whole everywhere.

    Raises:
      TypeError, ValueError: settings of the wrong kind.

    References:
      Xu et al. 2020, Automatic cross-replica sharding of weight update in data-parallel
        training, arXiv 2004.13336.
      Rajbhandari et al. 2020, ZeRO: memory optimizations toward training trillion
        parameter models, arXiv 1910.02054.

    >>> import jax.numpy as jnp
    >>> one = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    >>> Placement(one).layout({"w": jnp.zeros(3)}).num_devices
    1
    """

    mesh: Mesh | None = None
    shard_params: bool = False
    smallest_split: int = draws.SMALL_ON_MESH + 1

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.mesh is not None and not isinstance(self.mesh, Mesh):
            _check.fail("a jax.sharding.Mesh", "mesh", self.mesh, TypeError)
        if not isinstance(self.shard_params, bool):
            _check.fail("a bool", "shard_params", self.shard_params, TypeError)
        _check.integer("smallest_split", self.smallest_split, minimum=1)

    def layout(self, params: Params) -> "Layout":
        """Return what this says of a model: where each array goes.

        Args:
          params: pytree of arrays.

        Raises:
          ValueError: the mesh has no device of some process.
        """
        mesh = self.mesh
        if mesh is None:
            devices = jax.devices()
            mesh = jax.make_mesh((len(devices),), (_AXIS,), devices=devices)
        found = {device.process_index for device in mesh.devices.flat}
        if found != set(range(jax.process_count())):
            expected = f"devices of all {jax.process_count()} processes"
            _check.fail(expected, "mesh", mesh)
        if list(mesh.devices.flat) == jax.devices()[:1]:
            return SINGLE
        # The axes that XLA may choose itself: a loss has no shardings in its types.
        automatic = (AxisType.Auto,) * len(mesh.axis_names)
        mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=automatic)
        parts = {
            path: (np.shape(leaf), self._spec(mesh, np.shape(leaf)))
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        }
        return Layout(mesh, self.shard_params, parts)

    def _spec(self, mesh: Mesh, shape: tuple[int, ...]) -> PartitionSpec:
        name = mesh.axis_names[-1]
        count = mesh.shape[name]
        axes = [axis for axis, size in enumerate(shape) if size and size % count == 0]
        if not axes or math.prod(shape) < self.smallest_split:
            return PartitionSpec()
        axis = max(axes, key=lambda axis: shape[axis])
        return PartitionSpec(*[None] * axis, name)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each array of one model goes; without a mesh, nothing is moved.

    Attributes:
      mesh: of devices, all of its axes automatic; or None for one device.
      shard_params: see `Placement`.
      parts: shape of each leaf of the parameters, and how it is split, by path.
    """

    mesh: Mesh | None
    shard_params: bool
    parts: dict[tuple[Any, ...], tuple[tuple[int, ...], PartitionSpec]]

    @property
    def num_devices(self) -> int:
        """Return the number of devices that share a batch."""
        return 1 if self.mesh is None else self.mesh.size

    def describe(self) -> dict[str, Any]:
        """Return the devices as a JSON object: on others, numbers round otherwise."""
        device = jax.devices()[0] if self.mesh is None else self.mesh.devices.flat[0]
        return {
            "number": self.num_devices,
            "kind": device.device_kind,
            "shard_params": self.shard_params,
        }

    def split(self, tree: ArrayTree) -> ArrayTree:
        """Return the shardings of a tree in which parameters may be found.

        A leaf is split as the parameter is with whose path its own path ends, and whose
        shape its own shape ends with; any other is whole.
        """
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._on_mesh(self._spec(path, np.shape(leaf))), tree
        )

    def state(self, state: Any) -> Any:
        """Return the shardings of a `TrainState`."""
        shardings = self.split(state)
        if self.shard_params:
            return shardings
        whole = jax.tree.map(lambda _: self.whole, state.params)
        return shardings._replace(params=whole)

    @property
    def whole(self) -> NamedSharding:
        """Return the sharding of what every device has whole."""
        return self._on_mesh(PartitionSpec())

    @property
    def by_rows(self) -> NamedSharding:
        """Return the sharding of a batch."""
        assert self.mesh is not None
        return self._on_mesh(PartitionSpec(self.mesh.axis_names))

    def context(self) -> contextlib.AbstractContextManager:
        """Return the context of the mesh, by which noise knows that it may be split."""
        if self.mesh is None:
            return contextlib.nullcontext()
        return jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh)

    def _on_mesh(self, spec: PartitionSpec) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, spec)

    def _spec(self, path: tuple[Any, ...], shape: Sequence[int]) -> PartitionSpec:
        for start in range(len(path) + 1):
            wanted, spec = self.parts.get(path[start:], (None, PartitionSpec()))
            if wanted is None or len(wanted) > len(shape):
                continue
            extra = len(shape) - len(wanted)
            if tuple(shape[extra:]) == wanted:
                return PartitionSpec(*[None] * extra, *spec)
        return PartitionSpec()


SINGLE = Layout(None, False, {})
"""Everything on one device, as without a placement."""


def layout_of(placement: Placement | None, params: Params) -> Layout:
    """Return the layout that was asked for; None takes all devices there are."""
    return (Placement() if placement is None else placement).layout(params)
