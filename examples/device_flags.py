"""The processes and devices that one run of train.py is spread over."""

import jax
from absl import flags

from dpjax import training


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags about processes and devices."""
    for name, text in (
        ("shard_params", "Split the parameters over all devices (FSDP)."),
        (
            "distributed",
            "Join the other processes of jax.distributed: every process is started "
            "with the same flags, the first alone writes and shows anything. Where the "
            "cluster does not say who is who, the next three flags do.",
        ),
    ):
        flags.DEFINE_boolean(name, False, text, flag_values=flag_values)
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "HOST:PORT of the first process, for --distributed.",
        flag_values=flag_values,
    )
    for name, least, text in (
        ("num_processes", 1, "Number of processes, for --distributed."),
        ("process_id", 0, "Which of them this is, for --distributed."),
    ):
        flags.DEFINE_integer(
            name, None, text, lower_bound=least, flag_values=flag_values
        )


def check(flag_values: flags.FlagValues) -> None:
    """Raise `FlagError` where these flags do not fit together."""
    value = {name: flag_values[name].value for name in _WHO}
    given = [name for name in _WHO if value[name] is not None]
    if given and not flag_values["distributed"].value:
        raise training.FlagError(f"Expected --distributed with --{given[0]}.")
    if given and len(given) < len(_WHO):
        needed = ", ".join(f"--{name}" for name in _WHO)
        raise training.FlagError(f"Expected all of {needed}, or none, got {given}.")
    if given and value["process_id"] >= value["num_processes"]:
        raise training.FlagError(
            f"Expected --process_id below --num_processes={value['num_processes']}, "
            f"got --process_id={value['process_id']}."
        )


def join(flag_values: flags.FlagValues) -> None:
    """Join the other processes, if the flags say that there are any.

    It must be called before JAX is used for anything else.
    """
    if not flag_values["distributed"].value:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(**{name: flag_values[name].value for name in _WHO})


def placement(flag_values: flags.FlagValues) -> training.Placement:
    """Return how the run is spread over all devices there are."""
    return training.Placement(shard_params=flag_values["shard_params"].value)


_WHO = ("coordinator_address", "num_processes", "process_id")
"""The arguments of `jax.distributed.initialize`."""
