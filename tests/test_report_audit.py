"""The page of an audit: what it says, draws and escapes."""

import numpy as np
import pytest
from test_auditing_audit_report import report as small_report
from test_report import HOSTILE, Page, assert_requests_nothing

import dpjax
from dpjax import report
from dpjax.accounting import Epsilon
from dpjax.auditing import AuditReport, ExampleCanaries, GradientCanaries
from dpjax.report import audit_charts, bars, page

PLAN = dpjax.DPSGD(
    num_examples=5000,
    expected_batch_size=1000,
    num_steps=100,
    l2_norm_clip=0.5,
    noise_multiplier=2.63,
)


def audit_report(bound=1.279, gap=1.0, canaries=None, **changes):
    rng = np.random.default_rng(0)
    coins = rng.random(400) < 0.5
    scores = gap * coins + rng.normal(size=400)
    values = {
        "scores": tuple(scores.tolist()),
        "coins": tuple(coins.tolist()),
        "theoretical": Epsilon(2.3241, error=0.0, method="exact"),
        "bounds": {"dp": 0.9337, "fdp_gaussian": 1.27, "fdp": bound},
        "method": "fdp",
        "num_guesses": 80,
        "canaries": (canaries or GradientCanaries(400)).describe(),
        "mechanism": PLAN.describe(),
    }
    return small_report(bound, **(values | changes))


def write(path, found, **options):
    return Page(
        report.write_audit_report(path / "a.html", found, **options).read_text()
    )


def test_the_page_says_what_was_found_and_promised(tmp_path):
    text = write(tmp_path, audit_report(), title="digits · cnn").text
    for words in ("digits · cnn", "No violation found.", "no proof", "white-box"):
        assert words in text
    assert "Epsilon is at least 1.27" in text
    assert "2.33 is promised" in text
    assert "400 dirac gradient canaries" in text


def test_a_violation_stands_out(tmp_path):
    found = audit_report(2.9, access="black-box", canaries=ExampleCanaries(400))
    text = write(tmp_path, found).text
    assert "The promise is broken." in text
    assert found.verdict in text
    assert "No violation" not in text


def test_the_numbers_lie_beside_the_page_for_their_owner_alone(tmp_path):
    found = audit_report()
    path = report.write_audit_report(tmp_path / "a.html", found)
    numbers = path.with_suffix(".json")
    assert AuditReport.from_json(numbers.read_text()) == found
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}
    assert sorted(tmp_path.iterdir()) == [path, numbers]


def test_the_page_requests_nothing_and_takes_nothing_for_markup(tmp_path):
    found = audit_report(
        settings={HOSTILE: HOSTILE}, versions={"jax": HOSTILE}, access=HOSTILE
    )
    found_page = write(tmp_path, found, title=HOSTILE)
    assert_requests_nothing(found_page)
    assert HOSTILE in found_page.text


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(report.ReportError, match="can be written"):
        report.write_audit_report(tmp_path / "no" / "a.html", audit_report())


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0, 50.0, 1e4, np.inf])
def test_what_is_allowed_is_the_region_of_kairouz_et_al(epsilon):
    promise = Epsilon(epsilon, error=0.0, method="exact")
    found = audit_report(theoretical=promise)
    rates = np.linspace(0, 1, 50)
    allowed = np.array([audit_charts.allowed(found, rate) for rate in rates])
    assert np.all((rates <= allowed + 1e-12) & (allowed <= 1))
    assert np.all(np.diff(allowed) >= -1e-12)
    if epsilon == 0.0:
        expected = np.minimum(1, rates + found.delta)
        np.testing.assert_allclose(allowed, expected, atol=1e-12)


def test_an_infinite_promise_has_a_page_without_a_level(tmp_path):
    found = audit_report(theoretical=Epsilon(np.inf, error=0.0, method="exact"))
    assert audit_charts.bounds(found) is None
    assert "∞ is promised" in write(tmp_path, found).text


def test_scores_that_are_all_the_same_have_no_histogram():
    found = audit_report(scores=(1.0,) * 400)
    assert audit_charts.histogram(found) is None
    assert audit_charts.roc(found) is not None


def test_the_histogram_counts_every_canary():
    found = audit_report()
    drawing = audit_charts.histogram(found)
    counted = [sum(line.values) / 2 for line in drawing.chart.lines]
    assert counted == [len(found.in_scores), len(found.out_scores)]


def test_the_curve_is_on_log_axes_and_never_below_what_was_reached():
    found = audit_report()
    chart = audit_charts.roc(found).chart
    assert chart.log
    assert chart.step_scale.log
    reached = dict(zip(chart.steps, chart.lines[0].values, strict=True))
    false, true = found.roc
    for rate, value in reached.items():
        best = true[false <= rate * (1 + 1e-9)].max()
        assert value == (best if best > 0 else None)


def test_bars_end_at_their_numbers():
    rows = [("a", 1.0, "one"), ("b", 0.0, "plain")]
    drawing = bars.draw("k", "t", rows, (2.0, "level"))
    frame = drawing.frame
    assert [
        f"H{frame.x(value):g}v" in path
        for (_, value, _), (_, path) in zip(rows, drawing.bars, strict=True)
    ] == [True, True]
    assert drawing.level.x == frame.x(2.0)
    assert "a: 1." in drawing.description


@pytest.mark.parametrize("value", [1e-7, 0.0129999, 0.3, 1.2789, 12.99, 999.9, 12345.6])
def test_lower_bounds_are_rounded_down(value):
    shown = float(page.number_down(value).replace(",", ""))
    assert shown <= value
    assert shown >= 0.99 * value
