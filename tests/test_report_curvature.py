"""The page of a curvature study: what it says, draws and escapes."""

import dataclasses
import json
import math
import re
import stat

import pytest
from test_report import HOSTILE, Page, assert_requests_nothing, write_run

from dpjax import report
from dpjax.report import advice, axes, curvature_charts, heatmap

STEP = report.Step(
    clip_norm=0.5,
    noise_std=0.0016,
    fraction_clipped=0.246,
    cosine=0.685,
    norm_ratio=0.0643,
    loss_change=-0.00023,
    noise_cost=7e-9,
    best_learning_rate=2.4,
    best_loss_change=-0.0282,
    noise_share=0.3,
    double_noise_multiplier=6.2,
    double_noise_ratio=0.5,
)


def parabola(reach, curvature):
    x = [-reach, -reach / 2, 0.0, reach / 2, reach]
    return report.Curve(x, [0.25 + curvature * v**2 / 2 for v in x])


def make_study(path, *, private=True, recorded=True, settings=None, **changes):
    run = report.read_run(write_run(path, private=private, steps=20))
    run.config["settings"] = {"dataset": "digits", "model": "cnn"} | (settings or {})
    for line in run.lines if recorded else []:
        if line["step"] % 10 == 0:
            line["public"] |= {"sharpness": 30.0, "trace": 90.0, "trace_stderr": 4.0}
    side = [-1.0, 0.0, 1.0]
    values = {
        "run": run,
        "is_public": True,
        "examples": "public test set of digits",
        "num_examples": 1000,
        "num_slice_examples": 250,
        "num_parameters": 8570,
        "parameter_norm": 14.14,
        "loss": 0.2171,
        "top": report.Eigenvalues([20.44, 11.48], [1e-5, 2e-5]),
        "bottom": report.Eigenvalues([-0.442, -0.396], [2.1e-4, 0.01]),
        "trace": 53.49,
        "trace_stderr": 4.867,
        "spectrum": report.Curve([-1.0, 0.0, 10.0, 20.0], [0.0, 8e3, 1e-300, 1.0]),
        "slice_top": parabola(0.22, 20.44),
        "slice_random": parabola(12.0, 0.006),
        "plane": report.Plane(side, side, [[1.0, 0.5, 1.0]] * 3),
        "step": STEP if private else None,
        "method": {"lanczos_probes": 4, "seconds": 12.5},
    }
    return report.Study(**(values | changes))


def write(path, *studies):
    page = report.write_curvature_report(path / "curvature.html", studies)
    return Page(page.read_text(encoding="utf-8"))


@pytest.fixture
def both(tmp_path):
    one = make_study(tmp_path / "a")
    other = make_study(
        tmp_path / "b",
        private=False,
        loss=0.1092,
        top=report.Eigenvalues([9.763], [1e-5]),
    )
    return one, other


def test_the_page_states_the_numbers_of_both_runs(tmp_path, both):
    text = write(tmp_path, *both).text
    for piece in (
        "Sharpness 20.4, trace 53.5 ± 4.9 at the final parameters",
        "Largest eigenvalue (sharpness) 20.4 9.76",
        "Smallest eigenvalue −0.442 −0.442",
        "Trace 53.5 ± 4.87 53.5 ± 4.87",
        "Mean eigenvalue 0.00624 0.00624",  # 53.49 / 8570
        "Mean loss 0.217 0.109",
        "Curvature study, public test set of digits",
        "Mean loss of 250 examples.",
        "digits · cnn",
    ):
        assert piece in text, piece


def test_every_series_has_its_chart(tmp_path, both):
    assert write(tmp_path, *both).titles() == [
        *("Eigenvalues, private", "Eigenvalues, without privacy"),
        *("Sharpness", "Trace of the Hessian"),
        *("Loss along the sharpest direction", "Loss along a random direction"),
        "Loss over both directions, private",
        "Loss over both directions, without privacy",
    ]


def test_a_run_that_recorded_nothing_has_no_series(tmp_path):
    found = write(tmp_path, make_study(tmp_path / "a", recorded=False))
    assert "Over training" not in found.text
    assert "Sharpness" not in found.titles()


def test_series_at_other_steps_get_charts_of_their_own(tmp_path, both):
    for line in both[1].run.lines[:15]:
        line["public"].pop("sharpness", None)
    titles = write(tmp_path, *both).titles()
    assert "Sharpness, private" in titles
    assert "Sharpness, without privacy" in titles
    assert "Trace of the Hessian" in titles


def test_two_private_runs_are_told_apart_by_their_folders(tmp_path):
    studies = [make_study(tmp_path / name) for name in ("warm", "cold")]
    assert curvature_charts.names(studies) == ["warm", "cold"]
    assert "The run “cold”" in write(tmp_path, *studies).text


def test_what_the_page_costs_in_privacy_is_said(tmp_path, both):
    text = write(tmp_path, *both).text
    assert "Public examples only." in text
    assert "No privacy in the run “without privacy”." in text
    assert "infinite" not in text
    text = write(tmp_path, dataclasses.replace(both[0], is_public=False)).text
    assert "This page makes epsilon infinite." in text
    assert "Public examples only." not in text


def test_the_numbers_lie_beside_the_page_as_json(tmp_path, both):
    write(tmp_path, *both)
    path = tmp_path / "curvature.json"
    first, second = json.loads(path.read_text())["studies"]
    assert (first["run"], first["private"], second["private"]) == ("a", True, False)
    assert first["top"] == {"values": [20.44, 11.48], "residuals": [1e-5, 2e-5]}
    assert first["step"]["cosine"] == 0.685
    assert second["step"] is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "curvature.html").stat().st_mode) == 0o600


def test_hostile_strings_stay_text(tmp_path):
    study = make_study(
        tmp_path / "a",
        settings={"dataset": HOSTILE, "model": HOSTILE, "optimizer": HOSTILE},
        examples=HOSTILE,
        method={HOSTILE: HOSTILE},
    )
    run = dataclasses.replace(study.run, path=tmp_path / HOSTILE.replace("/", "|"))
    found = write(tmp_path, study, dataclasses.replace(study, run=run))
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "img", "iframe", "object", "form", "a"}
    assert not [name for _, attrs in found.tags for name in attrs if name[:2] == "on"]
    assert HOSTILE in found.text
    assert_requests_nothing(found)


def test_the_page_requests_nothing_and_closes_every_tag(tmp_path, both):
    found = write(tmp_path, *both)
    assert_requests_nothing(found)
    assert "http" not in found.source.replace("http-equiv", "")
    stack = []
    for closing, tag, rest in re.findall(r"<(/?)([a-z0-9]+)([^>]*)>", found.source):
        if closing:
            assert stack.pop() == tag
        elif tag not in {"meta", "link", "wbr", "br"} and not rest.endswith("/"):
            stack.append(tag)
    assert stack == []


def test_ids_are_unique_and_every_drawing_has_a_description(tmp_path, both):
    found = write(tmp_path, *both)
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    drawn = [attrs for tag, attrs in found.tags if tag == "svg"]
    assert len(ids) == len(set(ids)) == 2 * len(drawn) == 16
    for attrs in drawn:
        assert set(attrs["aria-labelledby"].split()) <= set(ids)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -3.0, 1e300])
def test_any_value_gives_a_page_and_json(tmp_path, value):
    numbers = dataclasses.asdict(STEP)
    side = [-1.0, 0.0, 1.0]
    study = make_study(
        tmp_path / "a",
        settings={"learning_rate": 0.1, "optimizer": "sgd"},
        **dict.fromkeys(("loss", "trace", "trace_stderr", "parameter_norm"), value),
        top=report.Eigenvalues([value], [value]),
        bottom=report.Eigenvalues([value], [value]),
        spectrum=report.Curve([], []),
        slice_top=report.Curve(side, [value] * 3),
        plane=report.Plane(side, side, [[value] * 3] * 3),
        step=report.Step(**dict.fromkeys(numbers, value)),
    )
    drawn = "".join(re.findall(r' d="(.*?)"', write(tmp_path, study).source))
    assert not re.search(r"nan|inf|e\+", drawn)
    assert json.loads((tmp_path / "curvature.json").read_text())["version"] == 1


def test_a_page_that_cannot_be_written_is_a_typed_error(tmp_path, both):
    with pytest.raises(report.ReportError, match=r"curvature\.json"):
        report.write_curvature_report(tmp_path / "no" / "curvature.html", both)
    with pytest.raises(ValueError, match="one or two studies"):
        report.write_curvature_report(tmp_path / "curvature.html", [])


# The words.


def learning_rate(tmp_path, **settings):
    return " ".join(advice.learning_rate(make_study(tmp_path, settings=settings)))


def test_the_stability_bound_is_that_of_the_optimizer(tmp_path):
    # 2 / 20.44 = 0.0978; 2 (1 + 0.9) / 20.44 = 0.186; 2 (1 + 0.5) / 20.44 = 0.147.
    plain = learning_rate(tmp_path / "a", optimizer="sgd", learning_rate=0.05)
    assert "2 / sharpness = 0.0978" in plain
    assert "0.05 is 0.511 of it: below, within a factor of five" in plain
    heavy = learning_rate(tmp_path / "b", optimizer="momentum", learning_rate=0.5)
    assert "2 (1 + momentum) / sharpness = 0.186" in heavy
    assert "2.69 of it: above." in heavy
    lighter = learning_rate(
        tmp_path / "c", optimizer="momentum", learning_rate=0.001, momentum=0.5
    )
    assert "2 (1 + momentum) / sharpness = 0.147" in lighter
    assert "far below" in lighter


def test_an_optimizer_that_rescales_is_not_held_to_the_bound(tmp_path):
    text = learning_rate(tmp_path, optimizer="adam", learning_rate=0.01)
    assert "0.01 cannot be compared with that bound" in text
    assert "of it:" not in text
    assert "0.5 η² s² tr H" not in text


def test_no_bound_follows_without_positive_curvature(tmp_path):
    flat = make_study(tmp_path, top=report.Eigenvalues([-1.0], [0.0]))
    assert advice.learning_rate(flat)[0].startswith("No direction of positive")


def test_a_best_rate_above_the_bound_is_explained(tmp_path):
    text = " ".join(advice.learning_rate(make_study(tmp_path / "a")))
    assert "which is 0.0643 times as long" in text  # 2.4 is more than 2 / 20.44
    small = dataclasses.replace(STEP, best_learning_rate=0.05)
    text = " ".join(advice.learning_rate(make_study(tmp_path / "b", step=small)))
    assert "no contradiction" not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "most at a learning rate of 2.4: the loss then changes by −0.0282"),
        (
            {"best_loss_change": None, "best_learning_rate": math.inf},
            "no best learning rate",
        ),
        (
            {"best_loss_change": None, "best_learning_rate": -1.0},
            "does not point downhill",
        ),
    ],
)
def test_the_best_rate_is_stated_where_there_is_one(tmp_path, changes, said):
    study = make_study(tmp_path, step=dataclasses.replace(STEP, **changes))
    assert said in " ".join(advice.learning_rate(study))


def test_a_trace_within_its_error_is_called_a_guess(tmp_path):
    text = advice.learning_rate(make_study(tmp_path, trace=5.0, trace_stderr=4.0))
    assert "within two standard errors of zero" in " ".join(text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fraction_clipped": 0.95}, "95.0 % of these examples' gradients are longer"),
        ({"fraction_clipped": 0.95}, "follows directions alone"),
        ({"fraction_clipped": 0.05}, "a lower clip norm would lower it"),
        ({"fraction_clipped": 0.5}, "Neither nearly all nor hardly any"),
        ({"cosine": 0.99}, "Clipping hardly turns the step"),
        ({"cosine": 0.5}, "turns it less, and brings more noise"),
        ({"cosine": 0.5, "noise_share": 0.01}, "a larger clip norm is worth a try"),
        ({"cosine": math.nan}, "they cannot be compared"),
    ],
)
def test_the_clip_norm_is_judged_by_share_and_angle(tmp_path, changes, said):
    study = make_study(tmp_path, step=dataclasses.replace(STEP, **changes))
    assert said in " ".join(advice.clip_norm(study)).replace("\xa0", " ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"noise_share": 0.8}, "Noise is what holds it back"),
        ({"noise_share": 0.01}, "Noise is not what holds it back"),
        ({"noise_share": 0.3}, "Noise and curvature both count."),
        # Noise of half the size: the best gain is 1 / (1 - 0.3 (1 - 0.25)) times.
        ({"noise_share": 0.3}, "adds 29.0 % to the gain of the best step"),
        ({"noise_share": 0.3}, "needs a noise multiplier of 6.2. Its s is 0.5"),
    ],
)
def test_the_batch_size_is_judged_by_what_the_noise_costs(tmp_path, changes, said):
    study = make_study(tmp_path, step=dataclasses.replace(STEP, **changes))
    assert said in " ".join(advice.batch_size(study)).replace("\xa0", " ")


def test_without_privacy_there_is_nothing_to_say_of_clip_and_noise(tmp_path):
    study = make_study(tmp_path, private=False)
    assert advice.clip_norm(study) == ["This run does not clip."]
    assert len(advice.batch_size(study)) == 1


# The drawings.


def test_a_spectrum_ends_at_its_floor_and_at_its_ends(tmp_path):
    drawing = curvature_charts.spectrum(make_study(tmp_path), 0, "private")
    assert drawing.frame.x_scale.low == -1
    assert drawing.frame.x_scale.high == 20
    assert drawing.frame.y_scale.low == 0.1
    assert drawing.labels == drawing.dots == []
    assert drawing.x_label.text == "eigenvalue"


def test_every_cell_of_a_map_is_in_the_shade_of_its_value():
    values = [[1.0, 10.0, 100.0], [2.0, math.nan, 100.0]]
    drawing = heatmap.draw(
        "k", "Title", ("a", "b"), [0.0, 1.0], [-1.0, 0.0, 1.0], values
    )
    counts = [level.path.count("M") for level in drawing.levels]
    # Even ratios from 1 to 100 in eight: 1.78 a shade; 2 is in the second, 10 (on the
    # edge) in the fifth, and the value that is not a number nowhere.
    assert counts == [1, 1, 0, 0, 1, 0, 0, 2]
    shades = [level.opacity for level in drawing.levels]
    assert shades == sorted(set(shades))
    assert drawing.levels[0].label.text == "1 to 1.78"


def test_a_map_without_a_finite_value_is_not_drawn():
    values = [[math.nan, math.inf]] * 2
    assert heatmap.draw("k", "T", ("a", "b"), [0, 1], [0, 1], values) is None
    assert heatmap.draw("k", "T", ("a", "b"), [0], [0], [[1.0]]) is None


@pytest.mark.parametrize(("low", "high"), [(-0.22, 0.22), (-1, 20), (3, 3), (1e-9, 5)])
def test_an_axis_over_a_span_has_round_ticks_within_it(low, high):
    scale = axes.span_scale(low, high)
    assert scale.low <= low <= high <= scale.high
    assert 2 <= len(scale.ticks) <= 9
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks)
