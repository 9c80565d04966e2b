"""The house keeps its shape, and the checks of that do complain about disorder."""

import pathlib
import subprocess
import tomllib

import build_file
import layering
import pytest

ROOT = pathlib.Path(__file__).absolute().parents[1]
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "BUILD",
    "README.md",
    "dpjax",
    "examples",
    "pyproject.toml",
    "tests",
}


def read_sources():
    folders = [ROOT / name for name in ("dpjax", "examples", "tests")]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


# The real house.


@pytest.fixture(scope="module")
def house():
    return read_sources()


def test_imports_run_downward_only(house):
    assert list(layering.layer_complaints(house)) == []


def test_imports_stand_at_the_top_of_their_module(house):
    assert list(layering.placement_complaints(house)) == []


def test_imports_have_no_cycle(house):
    assert list(layering.cycle_complaints(house)) == []


def test_build_says_what_the_imports_say(house):
    complaints = list(build_file.build_complaints(house, (ROOT / "BUILD").read_text()))
    assert not complaints, "\n".join(complaints)


def test_facade_holds_each_public_name_once_and_nothing_else(house):
    assert list(layering.facade_complaints(house)) == []


def test_every_foreign_import_is_declared_where_it_is_installed(house):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert list(layering.requirement_complaints(house, project)) == []


def test_top_level_is_the_design_card():
    if not (ROOT / ".git").exists():
        pytest.skip("what belongs to the project is known to git alone")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    assert {line.split("/")[0] for line in found.stdout.splitlines()} == TOP_LEVEL


# Houses in disorder.

HOUSE = {
    layering.FACADE: "'Facade.'\nfrom dpjax.mechanism import DPSGD\n__all__ = [DPSGD]",
    "dpjax/types.py": "import jax\nKey = int",
    "dpjax/noise/__init__.py": "from dpjax.noise.keys import draw",
    "dpjax/noise/keys.py": "from dpjax.types import Key\ndef draw(): pass",
    "dpjax/sampling.py": "import numpy as np\nfrom dpjax import types",
    "dpjax/optimizers.py": "try:\n import jinja2\nexcept ImportError:\n jinja2 = 1",
    "dpjax/mechanism.py": "from dpjax import noise, optimizers\nclass DPSGD: pass",
    "dpjax/report.py": "import jinja2\nimport dpjax.mechanism",
    "examples/train.py": "import dpjax\nif __name__ == '__main__': dpjax.DPSGD()",
    "tests/conftest.py": "import sys",
    "tests/test_train.py": "import pytest\nimport train\nfrom dpjax import sampling",
}
PROJECT = {
    "dependencies": ["jax>=0.1", "numpy"],
    "optional-dependencies": {"train": ["jinja2>=3"], "audit": [], "test": ["pytest"]},
}
BUILD = "".join(
    build_file.written(*target) for target in build_file.expected_targets(HOUSE)
)


def test_a_house_in_order_has_no_complaint():
    assert list(layering.layer_complaints(HOUSE)) == []
    assert list(layering.placement_complaints(HOUSE)) == []
    assert list(layering.cycle_complaints(HOUSE)) == []
    assert list(build_file.build_complaints(HOUSE, BUILD)) == []
    assert list(layering.facade_complaints(HOUSE)) == []
    assert list(layering.requirement_complaints(HOUSE, PROJECT)) == []


def only_complaint(check, path, text, *rest):
    complaints = list(check(HOUSE | {path: text}, *rest))
    assert len(complaints) == 1, complaints
    return complaints[0]


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("dpjax/noise/up.py", "import dpjax.mechanism", "not below"),
        ("dpjax/sampling.py", "from dpjax import noise", "not below"),
        ("dpjax/types.py", "from dpjax import DPSGD", "above every"),
        ("dpjax/types.py", "import train", "above every"),
        ("dpjax/utils.py", "", "no layer"),
    ],
)
def test_an_import_upward_or_sideways_is_found(path, text, complaint):
    assert complaint in only_complaint(layering.layer_complaints, path, text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def f():\n import jax", "a.py:2 imports"),
        ("if f:\n import jax", "a.py:2 imports"),
        ("try:\n import jax\nexcept Exception:\n jax = 1", "a.py:2 imports"),
        ("from . import b", "relatively"),
    ],
)
def test_an_import_elsewhere_or_relative_is_found(text, complaint):
    check = layering.placement_complaints
    assert complaint in only_complaint(check, "dpjax/a.py", text)


def test_a_cycle_is_found():
    text = "from dpjax.noise import keys"
    found = only_complaint(layering.cycle_complaints, "dpjax/types.py", text)
    assert "dpjax/types.py <- dpjax/noise/keys.py" in found


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("from dpjax.mechanism import DP", "not defined"),
        ("from dpjax.nowhere import DP", "not defined"),
        ("def f(): pass", "more than names"),
        ("import jax", "more than names"),
        (
            "from dpjax.noise import draw\nfrom dpjax.noise.keys import draw",
            "draw stands 2 times",
        ),
    ],
)
def test_a_facade_that_holds_something_else_is_found(text, complaint):
    check = layering.facade_complaints
    assert complaint in only_complaint(check, layering.FACADE, text)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("dpjax/mechanism.py", "import jinja2"),
        ("dpjax/mechanism.py", "try:\n import pytest\nexcept ImportError:\n a = 1"),
        ("dpjax/report.py", "import pytest"),
        ("examples/train.py", "import pytest"),
        ("tests/test_train.py", "import orbax.checkpoint"),
    ],
)
def test_an_undeclared_import_is_found(path, text):
    check = layering.requirement_complaints
    assert "does not bring" in only_complaint(check, path, text, PROJECT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('deps = [":dpjax/noise/keys"]', "deps = []"),
        ('deps = [":dpjax/noise/keys"]', 'deps = [":dpjax/noise/keys", ":dpjax"]'),
        ('name = "dpjax/types"', 'name = "dpjax/type"'),
        ('py_test(\n    args = ["tests/test_train.py"]', "py_test(\n    args = []"),
        ('py_binary(\n    deps = [":dpjax"]', 'py_library(\n    deps = [":dpjax"]'),
        (BUILD, BUILD + BUILD),
        (BUILD, ""),
    ],
)
def test_a_build_file_that_says_otherwise_is_found(old, new):
    assert BUILD.count(old) == 1
    assert list(build_file.build_complaints(HOUSE, BUILD.replace(old, new)))
