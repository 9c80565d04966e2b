"""train.py's own flags: what is trained, for whom, and by which mechanism."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from dpjax import optimizers, training
from dpjax.training import storage

if not storage.AVAILABLE:
    pytest.skip("needs the extra `train`", allow_module_level=True)

import data
import grouping
import train
import train_flags
import tuning

PARAMS = {
    "hidden": {"kernel": jnp.ones((6, 5)), "bias": jnp.zeros(5)},
    "logits": {"kernel": jnp.ones((5, 3)), "bias": jnp.zeros(3)},
}


def loss(params, x, y):
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    logits = hidden @ params["logits"]["kernel"] + params["logits"]["bias"]
    return jnp.square(logits - y).sum()


ORDERED = ["--sampling=deterministic"]


def parsed(*arguments):
    flag_values = flags.FlagValues()
    train_flags.define_flags(flag_values)
    train.parse(["train.py", *arguments], flag_values)
    return flag_values


def tuned(**options):
    settings = {"train_only": None, "adapter_rank": None}
    return tuning.tuned(PARAMS, loss, jax.random.key(0), **settings | options)


def test_all_is_trained_unless_the_flags_say_otherwise():
    found = tuned()
    assert (found.params, found.loss, found.whole(PARAMS)) == (PARAMS, loss, PARAMS)


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({"train_only": "logits"}, [(3,), (5, 3)]),
        ({"train_only": r"\['kernel'\]"}, [(6, 5), (5, 3)]),
        ({"adapter_rank": 2}, [(6, 2), (2, 5), (5, 2), (2, 3)]),
        ({"adapter_rank": 4}, [(6, 4), (4, 5)]),
    ],
)
def test_what_is_trained_begins_at_the_model_and_is_all_that_moves(options, shapes):
    found = tuned(**options)
    assert [leaf.shape for leaf in jax.tree.leaves(found.params)] == shapes
    x, y = jnp.arange(6.0) / 6, jnp.ones(3)
    assert jax.tree.all(
        jax.tree.map(jnp.array_equal, found.whole(found.params), PARAMS)
    )
    assert found.loss(found.params, x, y) == loss(PARAMS, x, y)
    grads = jax.grad(found.loss)(found.params, x, y)
    moved = found.whole(jax.tree.map(lambda p, g: p - g, found.params, grads))
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, moved, PARAMS))
    if "train_only" in options:
        path = "logits" if options["train_only"] == "logits" else "kernel"
        leaves = jax.tree_util.tree_leaves_with_path(
            jax.tree.map(jnp.array_equal, moved, PARAMS)
        )
        for name, same in leaves:
            assert same == (path not in jax.tree_util.keystr(name))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train_only": "encoder"}, r"got --train_only='encoder' for \['hidden'\]"),
        ({"adapter_rank": 9}, "got --adapter_rank=9"),
    ],
)
def test_a_model_without_such_parameters_is_refused(options, said):
    with pytest.raises(training.FlagError, match=said):
        tuned(**options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--train_only=a", "--adapter_rank=2"], "--train_only or --adapter_rank"),
        (["--train_only=("], "Expected a regular expression"),
        (["--unit_size=2", "--augmentations=2"], "--augmentations or --unit_size"),
        (["--unit_size=0"], "--unit_size"),
        (["--clipping=scaled"], "--stability with --clipping=scaled"),
        (["--stability=1"], "--stability only with --clipping=scaled"),
        (["--clipping=sparse_rows", "--tables=a"], "--row_threshold with"),
        (["--sharpness_radius=-1"], "--sharpness_radius=-1"),
        (["--full_steps=3"], "--full_steps only with --sampling=deterministic"),
        ([*ORDERED, "--full_steps=0"], "--full_steps"),
        ([*ORDERED, "--full_steps=3", "--clipping=per_layer"], "with --full_steps"),
        ([*ORDERED, "--full_steps=3", "--noise=discrete"], "with --full_steps"),
        ([*ORDERED, "--full_steps=3", "--noise_ratio=0.5"], "with --full_steps"),
        (["--private=false", "--noise_ratio=2"], "no --noise_ratio with --private"),
    ],
)
def test_flags_that_do_not_fit_end_the_script_in_one_line(arguments, said, capsys):
    with pytest.raises(SystemExit):
        parsed(*arguments)
    assert said in capsys.readouterr().err


def test_units_have_as_many_examples_as_are_left():
    x, y = np.arange(10.0).reshape(5, 2), np.arange(5)
    found = grouping.grouped(x, y, lambda w, x, y: w * y, 2, np.zeros(2, np.uint32))
    (xs, ys), mask = found.data
    assert (xs.shape, ys.shape, mask.sum(axis=1).tolist()) == (
        (3, 2, 2),
        (3, 2),
        [2, 2, 1],
    )
    assert grouping.num_units(5, 2) == 3
    losses = [found.loss(1.0, (xs[i], ys[i]), mask[i]) for i in range(3)]
    np.testing.assert_allclose(losses, [0.5, 2.5, 4.0])
    alone = grouping.grouped(x, y, loss, 1, np.zeros(2, np.uint32))
    assert alone.data[0] is x
    assert alone.loss is loss


MECHANISMS = {
    "units": ["--unit_size=4", "--batch_size=25"],
    "part": ["--train_only=bias"],
    "adapters": ["--adapter_rank=2"],
    "staged": ["--noise_ratio=0.5", "--steps=9"],
    "individual": ["--full_steps=1", "--sampling=deterministic", "--steps=9"],
    "scheduled": ["--clipping=scheduled", "--final_l2_norm_clip=0.2"],
    "scaled": ["--clipping=scaled", "--stability=0.01"],
    "sparse rows": [
        "--clipping=sparse_rows",
        "--tables=kernel",
        "--row_threshold=25.0",
        "--batch_size=1000",
    ],
    "sharpness": ["--sharpness_radius=0.1", "--ema_decay=0.5"],
}


@pytest.mark.parametrize("name", MECHANISMS)
def test_the_script_trains_and_its_folder_says_how(tmp_path, name):
    own = MECHANISMS[name]
    result = train.train(
        parsed(
            "--model=linear",
            "--steps=2",
            "--batch_size=100",
            "--noise_multiplier=1",
            "--seed=0",
            "--noprogress",
            f"--run_dir={tmp_path / 'run'}",
            *own,
        )
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    for flag, value in (argument[2:].split("=") for argument in own):
        assert str(config["settings"][flag]) == value
    units = 1000 if name == "units" else 4000
    assert config["mechanism"]["num_examples"] == units
    unit = "owner of up to 4 examples" if name == "units" else "example"
    told = config["mechanism"]["neighboring_relation"]
    words = f"add or remove one {unit}"
    if name == "individual":
        words = "replace one example by one that contributes nothing"
    assert (config["unit"], told) == (unit, words)
    assert 0 <= result.public["test_accuracy"] <= 1
    if name == "sparse rows":
        # What no digit touches is six deviations of the counts below the threshold.
        kernel = np.asarray(result.params["params"]["logits"]["kernel"])
        images = data.load("mnist_5k").train_x.reshape(4000, -1)
        never = ~np.any(images != 0, axis=0)
        assert np.any(never)
        assert not np.any(kernel[never])
        assert np.any(kernel)
    if name == "sharpness":
        trained = optimizers.trained_params(result.opt_state)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, trained, result.params))


@pytest.mark.parametrize(
    "setting",
    [
        "unit_size",
        "train_only",
        "adapter_rank",
        "sharpness_radius",
        "noise_ratio",
        "full_steps",
    ],
)
def test_audits_and_curvature_refuse_what_is_not_a_plain_run(setting):
    train_flags.check_plain({"dataset": "adult", "unit_size": 1, "train_only": None})
    with pytest.raises(training.FlagError, match=re.escape(f"--{setting}=3")):
        train_flags.check_plain({setting: 3})
