"""What may not be read, run, shown or left open: source, folders and pages."""

import ast
import dataclasses
import json
import os
import pathlib
import pickle
import stat
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_report import HOSTILE, assert_requests_nothing, read_page, write_run
from test_report_audit import audit_report
from test_report_audit import write as write_audit

import dpjax
from dpjax import mechanism, report, training
from dpjax.report import page
from dpjax.training import checkpoints, storage

ROOT = pathlib.Path(dpjax.__file__).parents[1]
SOURCES = [
    path
    for folder in ("dpjax", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
needs_orbax = pytest.mark.skipif(not storage.AVAILABLE, reason="needs orbax")


# Nothing is unpickled, and no text is run.

_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal",
            "joblib", "pickletools", "jsonpickle", "yaml", "ruamel"}  # fmt: skip
_CALLS = {"eval", "exec", "compile", "__import__"}
_METHODS = {
    *("read_pickle", "to_pickle", "unsafe_load", "system", "popen"),
    *("from_bytes_unsafe", "restore_pickle"),
}


def unsafe(tree):
    """Name each import or call by which a file could run a program."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call):
            yield from unsafe_call(node)
            continue
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in _MODULES)


def unsafe_call(node):
    name = ast.unparse(node.func)
    last = name.split(".")[-1]
    keywords = {word.arg: word.value for word in node.keywords}
    if name in _CALLS or last in _METHODS or (name, last) == ("torch.load", "load"):
        yield name
    allowed = keywords.get("allow_pickle")
    if allowed is not None and not (
        isinstance(allowed, ast.Constant) and allowed.value is False
    ):
        yield f"{name}(allow_pickle)"
    shell = keywords.get("shell")
    if shell is not None and not (
        isinstance(shell, ast.Constant) and shell.value is False
    ):
        yield f"{name}(shell)"


def test_the_source_unpickles_nothing_and_runs_no_text():
    assert len(SOURCES) > 200
    found = {
        str(path.relative_to(ROOT)): names
        for path in SOURCES
        if (names := list(unsafe(ast.parse(path.read_text()))))
    }
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from yaml import load",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "eval(text)",
        "subprocess.run(line, shell=True)",
        "import cloudpickle.x as y",
    ],
)
def test_the_scan_finds_what_it_looks_for(text):
    assert list(unsafe(ast.parse(text)))


WATCHED = []


def watch(event, arguments):
    if WATCHED and event in ("pickle.find_class", "os.system", "subprocess.Popen"):
        WATCHED[-1].append((event, arguments))


@pytest.fixture
def watched():
    """Note what is unpickled or started in this process."""
    if not hasattr(sys, "_dpjax_watch"):
        sys.addaudithook(watch)  # it cannot be taken off again
        sys._dpjax_watch = True
    WATCHED.append([])
    yield WATCHED[-1]
    WATCHED.pop()


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("/tmp/dpjax-test-bomb",)


def test_the_watch_sees_what_is_unpickled(watched):
    pickle.loads(pickle.dumps(pathlib.PurePosixPath("a")))
    assert watched


PLAN = mechanism.DPSGD(
    num_examples=30,
    expected_batch_size=10,
    num_steps=4,
    l2_norm_clip=1.0,
    noise_multiplier=1.0,
)


def fit(path, *, resume=False, settings=None):
    return training.fit(
        PLAN,
        lambda w, x: ((w - x) ** 2).sum(),
        jnp.zeros(3),
        np.ones((30, 3), np.float32),
        optax.sgd(0.1),
        key=1,
        delta=1e-5,
        run_dir=path,
        resume=resume,
        settings=settings,
        logging=training.Logging(every=1, progress=False),
        checkpointing=training.Checkpointing(every=2),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    fit(path)
    return path


@needs_orbax
def test_a_run_its_resumption_and_its_page_unpickle_nothing(trained, watched):
    fit(trained, resume=True)
    report.write_run_report(trained)
    training.load_params(trained, jnp.zeros(3))
    assert watched == []


@needs_orbax
@pytest.mark.parametrize(
    "name", ["leaves/d/bomb", "leaves/_METADATA", "manifest/metadata"]
)
def test_a_program_in_a_checkpoint_is_not_run(tmp_path, watched, name):
    directory = tmp_path / "checkpoints"
    tree = {"a": np.arange(3.0)}
    for step in (1, 2):
        checkpoints.save(directory, step, tree, {}, keep=2)
    target = directory / "2" / name
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(pickle.dumps(Bomb()))
    (directory / "2" / "SHA256SUMS").write_text("")  # no hash forbids it
    found = checkpoints.restore(directory, tree)
    np.testing.assert_array_equal(found.tree["a"], tree["a"])
    assert watched == []
    assert not pathlib.Path("/tmp/dpjax-test-bomb").exists()


# Run folders are private.


def modes(path):
    return {
        str(item.relative_to(path)): stat.S_IMODE(item.stat().st_mode)
        for item in [path, *path.rglob("*")]
    }


@needs_orbax
@pytest.mark.parametrize(
    "umask", [0o000, *(pytest.param(n, marks=pytest.mark.slow) for n in (0o022, 0o277))]
)
def test_a_run_folder_is_its_owners_alone_whatever_the_umask(tmp_path, umask):
    if umask & 0o700 and os.geteuid():
        pytest.skip("only root writes where it may not")
    before = os.umask(umask)
    try:
        fit(tmp_path / "run")
        report.write_run_report(tmp_path / "run")
    finally:
        os.umask(before)
    found = modes(tmp_path / "run")
    assert len(found) > 20
    wrong = {
        name: oct(mode)
        for name, mode in found.items()
        if mode != (0o700 if (tmp_path / "run" / name).is_dir() else 0o600)
    }
    assert wrong == {}


# Pages escape what they show.


def test_templates_escape_everything():
    assert page._ENVIRONMENT.autoescape is True
    templates = sorted((ROOT / "dpjax" / "report" / "templates").glob("*.html"))
    assert len(templates) >= 4
    for path in templates:
        text = path.read_text()
        for word in (
            "|safe",
            "| safe",
            "autoescape",
            "<script",
            "javascript:",
            "onload",
        ):
            assert word not in text, path


def test_no_module_makes_markup_by_hand():
    found = [
        path.name
        for path in (ROOT / "dpjax").rglob("*.py")
        if any(word in path.read_text() for word in ("Markup", "markupsafe"))
    ]
    assert found == []


def assert_harmless(found):
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "img", "iframe", "object", "form", "a"}
    assert not [name for _, attrs in found.tags for name in attrs if name[:2] == "on"]
    assert_requests_nothing(found)


def test_a_hostile_folder_name_stays_text(tmp_path):
    name = HOSTILE.replace("/", "|")
    run_dir = write_run(tmp_path / "run")
    config = json.loads((run_dir / "config.json").read_text())
    config["settings"] = {}  # the folder is then the title
    (run_dir / "config.json").write_text(json.dumps(config))
    run_dir.rename(tmp_path / name)
    found = read_page(tmp_path / name)
    assert_harmless(found)
    assert name in found.text


@pytest.mark.parametrize("field", ["canaries", "mechanism", "score", "settings"])
def test_a_hostile_audit_stays_text(tmp_path, field):
    found = audit_report()
    value = getattr(found, field)
    hostile = HOSTILE if isinstance(value, str) else value | {HOSTILE: HOSTILE}
    found = dataclasses.replace(found, **{field: hostile})
    shown = write_audit(tmp_path, found)
    assert_harmless(shown)
    assert HOSTILE in shown.text


# What a page and its numbers hold of single examples.


def numbers_in(value):
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers_in(item)]
    if isinstance(value, list):
        return [n for item in value for n in numbers_in(item)]
    return [value] if isinstance(value, float) else []


def longest(value):
    """Return the length of the longest list anywhere in a JSON value."""
    if isinstance(value, dict):
        return max((longest(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return max([len(value), *(longest(item) for item in value)])
    return 0


@needs_orbax
def test_a_run_writes_no_value_an_example(trained):
    lines = (trained / "metrics.jsonl").read_text().splitlines()
    for line in lines:
        assert longest(json.loads(line)) == 0
        assert json.loads(line)["not_private"]["batch_size"] <= 30
    for name in ("config.json", "summary.json"):
        assert longest(json.loads((trained / name).read_text())) < 10


def test_an_audit_of_private_examples_has_no_score_of_one(tmp_path):
    canaries = dpjax.auditing.ExampleCanaries(400, "mislabelled")
    found = audit_report(canaries=canaries)
    scores = set(found.scores)
    for asked, expected in ((False, set()), (True, scores)):
        path = report.write_audit_report(
            tmp_path / "a.html", found, per_example_scores=asked
        )
        written = json.loads(path.with_suffix(".json").read_text())
        assert set(numbers_in(written)) & scores == expected
        assert not [s for s in scores if str(s) in path.read_text()]
