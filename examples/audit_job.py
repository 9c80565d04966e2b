"""What audit.py audits: the training that train.py would do with the same flags."""

from typing import NamedTuple

import data
import jax
import jax.numpy as jnp
import models
import objectives
import optax
import scattering
from absl import flags

from dpjax import training
from dpjax.mechanism import DPSGD
from dpjax.noise import keys
from dpjax.types import LossFn, Params


class Job(NamedTuple):
    """What is audited."""

    mechanism: DPSGD
    dataset: data.Dataset
    loss: LossFn
    params: Params
    optimizer: optax.GradientTransformation


def job(
    options: training.Options, key: jax.Array, flag_values: flags.FlagValues
) -> Job:
    """Return what train.py would train with the same flags and this key."""
    dataset = data.load(flag_values["dataset"].value, flag_values["data_dir"].value)
    mechanism = options.mechanism(len(dataset.train_y))
    if flag_values["features"].value == "scattering":
        dataset = scattering.scatter_dataset(dataset)
    model = models.make(flag_values["model"].value, dataset.num_classes)
    init_key = keys.domain_key(key, "examples.train.init")
    params = model.init(init_key, jnp.asarray(dataset.train_x[0]) * 0)
    loss, _ = objectives.make_loss(model.apply, 0, flip=False)
    optimizer = options.optax_optimizer(mechanism)
    return Job(mechanism, dataset, loss, params, optimizer)
