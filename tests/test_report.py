"""The page of a run: what it says, what it escapes, what it refuses."""

import html.parser
import json
import math
import re
import stat

import numpy as np
import pytest

from dpjax import report
from dpjax.report import axes, charts, folder, page, words

MECHANISM = {
    "mechanism": "DP-SGD: Gaussian noise on the sum of clipped per-example gradients",
    "num_examples": 4000,
    "expected_batch_size": 1000,
    "num_steps": 120,
    "l2_norm_clip": 1.0,
    "noise_multiplier": 4.1015625,
    "sampling_prob": 0.25,
    "sampler": "Poisson",
    "sampler_statement": (
        "Every example enters every step independently with the same probability."
    ),
    "neighboring_relation": "one example is added or removed",
    "sensitivity": 1.0,
    "noise_std": 4.1015625,
    "divisor": 1000,
    "chunk_size": 1024,
    "event": (
        "SelfComposedDpEvent(event=PoissonSampledDpEvent(sampling_probability=0.25, "
        "event=GaussianDpEvent(noise_multiplier=4.1015625)), count=120)"
    ),
}
SETTINGS = {
    "dataset": "mnist_5k",
    "model": "cnn",
    "optimizer": {"name": "sgd", "momentum": 0.9, "learning_rate": 2.0},
    "schedule": "cosine",
    "microbatch_size": 250,
    "seed": None,
    "command": ["python", "examples/train.py", "--dataset=mnist_5k", "--model=cnn"],
}
VERSIONS = {"dpjax": "0.1.0", "jax": "0.10.2", "optax": "0.2.8", "python": "3.11.9"}
EPSILON = {"exact": 2.9706, "pld": 2.9712, "rdp": 3.2034}


def private_line(step, rng, evaluated):
    progress = 1 - math.exp(-step / 25)
    norms = (4.5 * math.exp(-step / 60) + 0.4) * np.array([0.12, 0.3, 0.7, 1.4, 2.4])
    names = ("0.1", "0.25", "0.5", "0.75", "0.9")
    public = {
        "test_loss": 2.3 - 1.98 * progress + rng.normal(0, 0.015),
        "test_accuracy": 0.11 + 0.8 * progress + rng.normal(0, 0.004),
    }
    return {
        "step": step,
        "epsilon": {
            name: value * math.sqrt(step / 120) for name, value in EPSILON.items()
        },
        "public": public if evaluated else {},
        "not_private": {
            "train_loss": 2.3 - 1.9 * progress + rng.normal(0, 0.05),
            "batch_size": int(rng.binomial(4000, 0.25)),
            "fraction_clipped": 0.35 + 0.6 * math.exp(-step / 50) + rng.normal(0, 0.02),
            "grad_norm_quantiles": dict(
                zip(names, (norms * rng.normal(1, 0.03, 5)).tolist(), strict=True)
            ),
        },
    }


def non_private_line(step, rng, evaluated):
    line = private_line(step, rng, evaluated)
    del line["not_private"]["fraction_clipped"]
    return line | {"epsilon": dict.fromkeys(("exact", "pld", "rdp"))}


def write_run(path, *, private=True, steps=120, finished=True, tail="", **changes):
    """Write a run folder as `fit` leaves it; `changes` go into config.json."""
    path.mkdir(exist_ok=True)
    rng = np.random.default_rng(7)
    make_line = private_line if private else non_private_line
    lines = [make_line(s, rng, s % 10 == 0 or s == steps) for s in range(1, steps + 1)]
    unlimited = {"noise_multiplier": 0.0, "l2_norm_clip": None, "noise_std": 0.0}
    config = {
        "version": 1,
        "private": private,
        "delta": 1e-4 if private else None,
        "mechanism": MECHANISM if private else MECHANISM | unlimited,
        "settings": SETTINGS,
        "versions": VERSIONS,
    }
    (path / "config.json").write_text(json.dumps(config | changes))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text(text + tail)
    if finished:
        end = {
            "status": "finished",
            "steps": steps,
            "epsilon": EPSILON if private else {},
            "delta": config["delta"],
            "public": {"test_loss": 0.312, "test_accuracy": 0.912},
            "elapsed_seconds": 187.4,
            "sha256": {"params": "5f" * 32, "metrics": "c0" * 32},
        }
        (path / "summary.json").write_text(json.dumps(end))
    return path


class Page(html.parser.HTMLParser):
    """Collect the tags and the text of a page."""

    def __init__(self, source):
        super().__init__()
        self.source, self.tags, self.pieces, self.skipping = source, [], [], False
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.skipping = tag == "style"

    def handle_endtag(self, tag):
        self.skipping = False
        del tag

    def handle_data(self, data):
        if not self.skipping:
            self.pieces.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.pieces).replace("\xa0", " ").split())

    def titles(self):
        return re.findall(r"<figcaption>(.*?)(?: <|</)", self.source)


def read_page(run_dir):
    return Page(report.write_run_report(run_dir).read_text(encoding="utf-8"))


def test_verdict_states_utility_both_epsilons_and_delta(tmp_path):
    text = read_page(write_run(tmp_path)).text
    # All epsilons are rounded up: 2.9706, 2.9712 and 3.2034.
    verdict = (
        "91.2 % test accuracy at epsilon = 2.98 (exact), 2.98 (PLD), 3.21 (RDP), "
        "delta = 1e-4"
    )
    assert verdict in text
    assert f"mnist_5k · cnn: {verdict}" in text
    assert "finished" in text
    assert "unfinished" not in text.lower()


def test_an_epsilon_that_is_no_guarantee_is_quoted_as_such(tmp_path):
    folder = write_run(tmp_path)
    assert "not a guarantee" not in read_page(folder).text
    path = folder / "summary.json"
    quoted = "epsilon 0.4707 at delta 0.0001 if it were so: not a guarantee"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"not_a_guarantee": quoted})
    )
    text = read_page(folder).text
    assert f"without regard to that: {quoted}." in text


def test_a_budget_that_runs_share_is_promised_of_all_of_them(tmp_path):
    alone = "Other runs. Every further run"
    assert alone in read_page(write_run(tmp_path)).text
    shared = {"privacy_filter": {"epsilon": 2.991, "delta": 1e-4}}
    text = read_page(write_run(tmp_path, training=shared)).text
    assert "all of them together, epsilon is at most 3.00 at delta 1e-4." in text
    assert alone not in text
    assert "Other runs, but for those that share its budget." in text
    for damaged in (3, {"epsilon": None}, {"epsilon": [1], "delta": 1e-4}):
        folder = write_run(tmp_path, training={"privacy_filter": damaged})
        assert alone in read_page(folder).text


def test_page_says_what_the_epsilon_means(tmp_path):
    text = read_page(write_run(tmp_path)).text
    # e^2.9712 = 19.5153...; (19.5153 + 1e-4) / 20.5153 = 0.951260...
    assert "= 19.6 times as likely" in text
    assert "right at most 95.2 % of the time" in text
    assert "one example is added or removed" in text


def test_page_says_whom_the_promise_is_for(tmp_path):
    of_examples = "The promise is for one example; for several"
    assert of_examples in read_page(write_run(tmp_path)).text
    text = read_page(write_run(tmp_path, unit="user")).text
    assert "more than one user. The promise is for one user; for several" in text
    assert of_examples not in text


def test_every_public_constant_is_on_the_page_exactly(tmp_path):
    own = {"block_decoder_bands": [1, 2], "l2_norm_clip": {"['dense']": 0.1}}
    run_dir = write_run(tmp_path, mechanism=MECHANISM | own)
    text = read_page(run_dir).text
    for key, value in (MECHANISM | own).items():
        assert words.plain(value) in text, key
    assert "Delta 0.0001" in text
    assert "Block decoder bands [1, 2]" in text
    assert "Clip norm {\"['dense']\": 0.1}" in text


def test_settings_versions_command_and_hashes_are_on_the_page(tmp_path):
    more = {"training": {"log_every": 10}, "model": {"num_parameters": 26010}}
    text = read_page(write_run(tmp_path, **more)).text
    for piece in (
        *("optimizer. learning_rate 2.0", "log_every 10", "num_parameters 26,010"),
        *("jax 0.10.2", "python examples/train.py --dataset=mnist_5k", "5f" * 32),
    ):
        assert piece in text


def test_each_series_has_its_chart(tmp_path):
    assert read_page(write_run(tmp_path)).titles() == [
        *("Epsilon spent", "Test accuracy", "Test loss"),
        *("Gradient norms of single examples", "Fraction clipped"),
        *("Train loss", "Batch size"),
    ]


def test_raw_statistics_carry_a_note_and_nothing_else_does(tmp_path):
    source = read_page(write_run(tmp_path)).source
    outside, inside = source.split("<h2>Inside the training</h2>")
    inside, after = inside.split("</section>", 1)
    assert inside.count('<span class="tag">not private</span>') == 4
    assert inside.count("<figure>") == 4
    assert "not covered by the stated epsilon" in inside
    assert "tag" not in re.sub(r"<style>.*?</style>", "", outside + after, flags=re.S)


def test_a_run_without_privacy_says_so_loudly(tmp_path):
    found = read_page(write_run(tmp_path, private=False))
    assert "91.2 % test accuracy without any privacy" in found.text
    assert "This run gives no privacy." in found.text
    assert {"class": "note alarm", "role": "note"} in [a for _, a in found.tags]
    assert "What the epsilon means" not in found.text
    assert "Epsilon spent" not in found.titles()


def test_an_infinite_epsilon_is_no_privacy_either(tmp_path):
    run_dir = write_run(tmp_path, steps=3, finished=False)
    rewrite_lines(
        run_dir, lambda line: line | {"epsilon": {"pld": "inf", "rdp": "inf"}}
    )
    text = read_page(run_dir).text
    assert "with no finite epsilon: no privacy" in text
    assert "This run gives no privacy." in text


def test_an_unfinished_run_shows_its_last_line(tmp_path):
    run_dir = write_run(tmp_path, steps=70, finished=False)
    rewrite_lines(
        run_dir, lambda line: line | ({"public": {}} if line["step"] > 65 else {})
    )
    text = read_page(run_dir).text
    # Times sqrt(70 / 120): 2.26881, 2.26927 and 2.44662.
    so_far = "2.27 (exact), 2.27 (PLD), 2.45 (RDP)"
    assert f"(at step 60) so far at epsilon = {so_far}" in text
    assert "Unfinished." in text
    assert "70 of 120" in text


def test_a_run_without_a_line_yet_states_no_epsilon(tmp_path):
    text = read_page(write_run(tmp_path, steps=0, finished=False)).text
    assert "No epsilon is logged yet." in text
    assert "no privacy" not in text


def test_a_run_stopped_at_its_budget_says_so(tmp_path):
    run_dir = write_run(tmp_path)
    summary = json.loads((run_dir / "summary.json").read_text())
    summary |= {"status": "stopped_at_budget", "public": {}}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    text = read_page(run_dir).text
    assert "stopped at its privacy budget" in text
    assert "% test accuracy at epsilon" in text  # From the last line that has it.


@pytest.mark.parametrize(
    "tail",
    ['{"step": 121, "eps', "{", "\0\0\0\0", '{"step": 121, "a": "\N{MICRO SIGN}'],
)
def test_a_torn_last_line_is_left_out_and_said(tmp_path, tail):
    run_dir = write_run(tmp_path, tail=tail)
    with (run_dir / "metrics.jsonl").open("rb+") as file:
        file.truncate(file.seek(0, 2) - (tail[-1] == "\N{MICRO SIGN}"))
    text = read_page(run_dir).text
    assert "A torn line." in text
    assert "120 of 120" in text


def test_a_whole_last_line_without_newline_counts(tmp_path):
    run_dir = write_run(tmp_path, steps=70, finished=False)
    metrics = run_dir / "metrics.jsonl"
    metrics.write_text(metrics.read_text().rstrip("\n"))
    text = read_page(run_dir).text
    assert "70 of 120" in text
    assert "torn" not in text


HOSTILE = (
    "</title></style><script>alert('x')</script><img src=http://e.org/x onerror=y>"
)


def test_hostile_strings_stay_text(tmp_path):
    settings = {"dataset": HOSTILE, HOSTILE: HOSTILE, "a": {HOSTILE: [HOSTILE]}}
    settings |= {"model": "\ud800\u202e\0", "command": [HOSTILE]}
    mechanism = MECHANISM | {k: HOSTILE for k, v in MECHANISM.items() if v != 120}
    run_dir = write_run(
        tmp_path,
        settings=settings,
        mechanism=mechanism | {HOSTILE: 1},
        model={"<b>": 1},
    )
    summary = json.loads((run_dir / "summary.json").read_text())
    summary |= {"status": HOSTILE, "epsilon": {HOSTILE: 1.0}, "public": {HOSTILE: 0.5}}
    summary["sha256"] = {HOSTILE: HOSTILE}
    (run_dir / "summary.json").write_text(json.dumps(summary))
    hostile = {
        "epsilon": {HOSTILE: 1.0, "{}": 0.5},
        "public": {HOSTILE: 0.5},
        "not_private": {HOSTILE: 2, "grad_norm_quantiles": {HOSTILE: 1, "0.5": 1}},
    }
    rewrite_lines(run_dir, lambda line: line | hostile)
    found = read_page(run_dir)
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "img", "iframe", "object", "form", "a"}
    assert not [name for _, attrs in found.tags for name in attrs if name[:2] == "on"]
    assert "<script" not in found.source
    assert HOSTILE in found.text
    assert_requests_nothing(found)


def test_the_page_requests_nothing_and_runs_nothing(tmp_path):
    found = read_page(write_run(tmp_path))
    assert_requests_nothing(found)
    assert "http" not in found.source.replace("http-equiv", "")
    policy = [a["content"] for _, a in found.tags if "http-equiv" in a]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def assert_requests_nothing(found):
    style = "".join(re.findall(r"<style>.*?</style>", found.source, flags=re.S))
    assert not re.search(r"@import|url\(|@font-face|expression", style)
    names = {"src", "href", "srcset", "action", "data", "poster", "background"}
    links = [a for tag, attrs in found.tags for a in attrs.items() if a[0] in names]
    assert links == [("href", "data:,")]
    assert not {tag for tag, _ in found.tags} & {"script", "iframe", "object", "base"}
    assert not [attrs for _, attrs in found.tags if "style" in attrs]


def test_ids_are_unique_and_every_chart_has_a_title_and_a_description(tmp_path):
    found = read_page(write_run(tmp_path))
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) == 2 * 7
    for tag, attrs in found.tags:
        if tag == "svg":
            assert attrs["role"] == "img"
            assert attrs["aria-labelledby"].split() == [
                name for name in ids if name in attrs["aria-labelledby"].split()
            ]
    assert "PLD: 0.272 at step 1, 2.98 at step 120." in found.text


def test_every_tag_that_is_opened_is_closed(tmp_path):
    source = read_page(write_run(tmp_path)).source
    void = {"meta", "link", "wbr", "br"}
    stack = []
    for closing, tag, rest in re.findall(r"<(/?)([a-z0-9]+)([^>]*)>", source):
        if closing:
            assert stack.pop() == tag
        elif tag not in void and not rest.endswith("/"):
            stack.append(tag)
    assert stack == []


def test_the_page_is_private_and_replaces_the_old_one_whole(tmp_path, monkeypatch):
    run_dir = write_run(tmp_path)
    path = report.write_run_report(str(run_dir))
    assert path == run_dir / "report.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before, names = path.read_bytes(), sorted(run_dir.iterdir())

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page.os, "fsync", full_disk)
    with pytest.raises(report.ReportError, match=r"No space left.*report\.html"):
        report.write_run_report(run_dir)
    assert path.read_bytes() == before
    assert sorted(run_dir.iterdir()) == names


def test_the_same_folder_gives_the_same_page(tmp_path):
    run_dir = write_run(tmp_path)
    assert read_page(run_dir).source == read_page(run_dir).source


GOOD_LINE = b'{"step": 1, "epsilon": {}, "public": {}, "not_private": {}}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("config.json", b""),
        ("config.json", b"not json"),
        ("config.json", b"[1]"),
        ("config.json", b"\xff\xfe"),
        ("config.json", b"[" * 100_000),
        ("config.json", b'{"version": 2, "private": true, "delta": 0.1}'),
        ("config.json", b'{"version": 1, "private": "yes", "delta": 0.1}'),
        ("config.json", b'{"version": 1, "private": true}'),
        ("config.json", b'{"version": 1, "private": true, "delta": 1.5}'),
        ("config.json", b'{"version": 1, "private": true, "delta": NaN}'),
        ("config.json", b'{"version": 1, "private": false, "settings": [1]}'),
        ("metrics.jsonl", None),
        ("metrics.jsonl", b"not json\n" + GOOD_LINE),
        ("metrics.jsonl", b"not json\n"),
        ("metrics.jsonl", b"\n" + GOOD_LINE),
        ("metrics.jsonl", b'{"epsilon": {}}\n'),
        ("metrics.jsonl", b'{"step": true}\n'),
        ("metrics.jsonl", b'{"step": -1}\n'),
        ("metrics.jsonl", b'{"step": 1, "epsilon": 3}\n'),
        ("metrics.jsonl", b'{"step": 1, "not_private": {"grad_norm_quantiles": 3}}\n'),
        ("metrics.jsonl", GOOD_LINE + GOOD_LINE),
        ("summary.json", b'{"steps": 12'),
        ("summary.json", b"{}"),
        ("summary.json", b'{"steps": 120, "sha256": "5f"}'),
    ],
)
def test_a_missing_or_damaged_file_is_a_typed_error_that_names_it(
    tmp_path, name, content
):
    run_dir = write_run(tmp_path, steps=2)
    if content is None:
        (run_dir / name).unlink()
    else:
        (run_dir / name).write_bytes(content)
    expected = rf"^Expected .*, got (.*{re.escape(name)}).*\.$"
    with pytest.raises(report.ReportError, match=expected):
        report.write_run_report(run_dir)
    assert not (run_dir / "report.html").exists()


def test_a_folder_that_is_not_there_is_a_typed_error(tmp_path):
    with pytest.raises(report.ReportError, match=r"config\.json"):
        report.write_run_report(tmp_path / "nowhere")


def rewrite_lines(run_dir, change):
    metrics = run_dir / "metrics.jsonl"
    lines = [change(json.loads(line)) for line in metrics.read_text().splitlines()]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    "value", ["nan", "inf", "-inf", None, 0, -3.5, 1e-300, 1e300, "text", True, [1]]
)
def test_any_value_of_a_metric_gives_a_page(tmp_path, value):
    quantiles = {"0.1": value, "0.5": 1.0, "0.9": value}
    odd = {
        "public": {"test_accuracy": value, "test_loss": value},
        "not_private": {"train_loss": value, "grad_norm_quantiles": quantiles},
        "epsilon": {"pld": value, "rdp": 1.0},
    }
    run_dir = write_run(tmp_path, steps=6, finished=False)
    rewrite_lines(run_dir, lambda line: line | (odd if line["step"] % 3 else {}))
    source = read_page(run_dir).source
    drawn = "".join(re.findall(r' d="(.*?)"', source))
    assert not re.search(r"nan|inf|e\+", drawn)
    rewrite_lines(run_dir, lambda line: line | odd)
    assert read_page(run_dir).source.startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("changes", "head"),
    [
        ({"settings": {"seed": 0}}, "Seeded by hand."),
        ({"settings": {"start_from": "runs/one"}}, "Begun where another run ended."),
        ({"delta": 0.00025}, "Delta is large."),
    ],
)
def test_what_weakens_the_promise_is_said(tmp_path, changes, head):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert head in read_page(write_run(tmp_path / "a", **changes)).text
    assert head not in read_page(write_run(tmp_path / "b")).text


def test_long_runs_are_thinned_but_keep_their_ends(tmp_path):
    run_dir = write_run(tmp_path, steps=3000, finished=False)
    source = read_page(run_dir).source
    assert "300 of 3,000 logged steps drawn." in source
    assert "at step 3,000." in source
    assert len(source) < 150_000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.98, "2.98"),
        (2.9800000001, "2.99"),
        (2.999, "3.00"),
        (9.999, "10.0"),
        (0.05, "0.0500"),
        (1e-4, "1e-4"),
        (1 / 60000, "1.67e-5"),
        (0.00999, "9.99e-3"),
        (123.01, "124"),
        (999.5, "1e3"),
        (0.0, "0"),
        (math.inf, "∞"),
    ],
)
def test_bounds_are_rounded_up(value, text):
    assert page.number_up(value) == text
    if 0 < value < math.inf:
        assert float(text) >= value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.5, f"{page.MINUS}0.5"),
        (1234.5, "1,234"),
        (12345678, "1.235e7"),
        (-math.inf, f"{page.MINUS}∞"),
        (math.nan, "not a number"),
        (1e-12, "1e-12"),
    ],
)
def test_numbers_are_short_and_readable(value, text):
    assert page.number(value) == text


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.31, 0.94), (-5, 7), (3, 3), (0, 0), (-2, -2), (1e-9, 5)],
)
@pytest.mark.parametrize("scale", [axes.linear_scale, axes.log_scale])
def test_ticks_are_few_and_hold_the_values_between_them(scale, low, high):
    if scale is axes.log_scale and low <= 0:
        low, high = 0.02, 1e9
    found = scale(low, high)
    assert found.low <= low <= high <= found.high
    assert found.low < found.high
    assert 2 <= len(found.ticks) <= 10
    assert (found.share(found.low), found.share(found.high)) == (0, 1)


def test_labels_at_the_ends_of_lines_never_cover_each_other():
    values = [1.0, 1.001, 1.002, 5.0, 5.001]
    lines = tuple(charts.Line([0.0, value], f"line {value}") for value in values)
    drawing = charts.draw(charts.Chart("key", "Title", [1, 2], lines))
    heights = sorted(mark.y for mark in drawing.labels)
    assert min(np.diff(heights)) >= 13
    assert heights[0] >= 0
    assert heights[-1] <= drawing.frame.bottom


def test_a_gap_in_the_values_is_a_gap_in_the_line():
    line = charts.Line([1.0, None, 2.0, 3.0])
    drawing = charts.draw(charts.Chart("key", "Title", [1, 2, 3, 4], (line,)))
    ((_, path),) = drawing.paths
    assert (path.count("M"), path.count("L")) == (2, 1)


def test_a_chart_without_a_finite_value_is_not_drawn():
    line = charts.Line([None, math.inf, math.nan])
    assert charts.draw(charts.Chart("key", "Title", [1, 2, 3], (line,))) is None
    assert charts.draw(charts.Chart("key", "Title", [], (charts.Line([]),))) is None
    rare = charts.Line([None, 1.0, *[None] * 998])  # Thinning leaves the second out.
    assert charts.draw(charts.Chart("key", "Title", range(1000), (rare,))) is None


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0, 800.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.5])
def test_guessing_bound_is_reached_by_the_worst_pair(epsilon, delta):
    # The pair that meets (epsilon, delta) with equality (Kairouz et al. 2015): outcomes
    # that give the data set away have probability delta, the others are in the ratio
    # e^epsilon. The best guess takes the likelier data set for each outcome.
    larger = (1 - delta) / (1 + math.exp(-epsilon))
    best = 0.5 * (delta + larger) + 0.5 * (delta + larger)
    assert words.guessing_bound(epsilon, delta) == pytest.approx(best, rel=1e-12)


def test_words_for_numbers_outside_json_are_read():
    read = [folder.as_number(word) for word in ("inf", "-Infinity", "nan", "1.0", "")]
    assert read[0] == math.inf
    assert read[2] != read[2]
    assert read[3:] == [None, None]
    assert folder.as_number(10**400) == math.inf
