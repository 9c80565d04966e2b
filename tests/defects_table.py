"""`defects_list` as README's table.

Run me as a script: I print the table, and with --write put it between README's marks.
"""

import argparse
import ast
import pathlib
import re
import sys
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).parent / "benchmarks"))

import defects_list
import table

README = pathlib.Path(__file__).parents[1] / "README.md"
TESTS = pathlib.Path(__file__).with_name("test_defects.py")
MARKS = ("<!-- defects:start -->", "<!-- defects:end -->")


def test_names() -> dict[int, str]:
    """Return the name of each defect's test on dpjax."""
    return {int(name[5:7]): name for name in _tests() if "_is_seen_in_" not in name}


def twin_names() -> set[tuple[int, str]]:
    """Return number and peer of each test that shows a defect."""
    twins = (name[5:].split("_is_seen_in_") for name in _tests() if "_seen_" in name)
    return {(int(number), peer.replace("_", "-")) for number, peer in twins}


def render() -> str:
    """Return the table as Markdown."""
    head = ["", "what goes wrong", "seen in", "dpjax", "test"]
    names = test_names()
    lines = [
        [
            str(each.number),
            each.wrong,
            "; ".join(map(_where, each.sightings)),
            each.prevented,
            f"`{names[each.number]}`",
        ]
        for each in defects_list.DEFECTS
    ]
    return table.markdown(head, lines) + "\n"


def _where(sighting: defects_list.Sighting) -> str:
    peer = sighting.peer
    if sighting.seen == "not installable":
        return f"{peer}: not looked at, {sighting.how}"
    said = f"{peer} {defects_list.VERSIONS[peer]}"
    if sighting.seen == "no":
        said = f"not in {said}"
    return f"{said} ({sighting.how})" if sighting.how else said


def _tests() -> Iterator[str]:
    for node in ast.parse(TESTS.read_text()).body:
        if isinstance(node, ast.FunctionDef) and re.match(r"test_\d\d_", node.name):
            yield node.name


def main() -> None:
    """Print the table; put it into README where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="Put it into README.")
    text = render()
    print(text)
    if parser.parse_args().write:
        README.write_text(table.replace_block(README.read_text(), text, MARKS))


if __name__ == "__main__":
    main()
