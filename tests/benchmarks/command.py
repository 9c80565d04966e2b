"""What commands share: flags, a run that is kept, and its tables in README."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import table
from absl import app, flags

README = pathlib.Path(__file__).resolve().parents[2] / "README.md"

Run = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Command:
    """A benchmark in parts, each of which may be measured by itself.

    Attributes:
        parts: Names of what there is to measure.
        results: Where the run is kept that README shows.
        render: Turns a run into Markdown.
        marks: The lines of README between which that stands.
    """

    parts: tuple[str, ...]
    results: pathlib.Path
    render: Callable[[Run], str]
    marks: tuple[str, str]

    def define_flags(
        self,
        flag_values: flags.FlagValues,
        *,
        chosen: Sequence[str] | None = None,
        out: str = "Folder for results.json and table.md.",
        quick: str,
    ) -> None:
        """Define the flags that all commands have.

        Args:
            flag_values: Where.
            chosen: The parts that are measured unless others are named; None for all.
            out: What the folder is for.
            quick: What a trial is.
        """
        own: dict[str, Any] = {"flag_values": flag_values}
        text = (
            f"What to measure, any of: {', '.join(self.parts)}. The others stay as "
            "they were measured last."
        )
        flags.DEFINE_list("parts", list(chosen or self.parts), text, **own)
        flags.DEFINE_string("out", None, out, **own)
        keep = "Keep the results, and put their tables into README."
        for name, default, text in (
            ("quick", False, f"{quick}: a trial, no measurement."),
            (
                "measure",
                True,
                "Measure; else only write out the results that are kept.",
            ),
            ("write_readme", False, keep),
        ):
            flags.DEFINE_bool(name, default, text, **own)

    def check_parts(self, parts: Sequence[str]) -> None:
        """Raise a ValueError if a part is none of these."""
        for part in parts:
            if part not in self.parts:
                listed = ", ".join(map(repr, self.parts))
                raise ValueError(f"Expected any of {listed}, got parts={part!r}.")

    def read_results(self) -> dict[str, Any] | None:
        """Return the run that is kept, if one is."""
        return json.loads(self.results.read_text()) if self.results.exists() else None

    def write_out(self, run: Run, folder: pathlib.Path) -> None:
        """Write results.json and table.md into a folder, the results first."""
        folder.mkdir(parents=True, exist_ok=True)
        _write(run, folder / "results.json")
        (folder / "table.md").write_text(self.render(run))

    def carry_out(
        self,
        argv: Sequence[str],
        measure: Callable[[flags.FlagValues], dict[str, Any]],
        write_out: Callable[[Run, pathlib.Path], None] | None = None,
    ) -> None:
        """Measure, print the tables, and write what the flags ask for."""
        if len(argv) > 1:
            raise app.UsageError(f"Expected flags alone, got {argv[1:]}.")
        values = flags.FLAGS
        run = measure(values) if values.measure else self.read_results()
        if run is None:
            raise app.UsageError("Expected results that are kept, got none.")
        if values.out:
            (write_out or self.write_out)(run, pathlib.Path(values.out))
        text = self.render(run)
        print("\n" + text)
        if values.write_readme:
            if run["settings"]["quick"]:
                raise app.UsageError("Expected a measurement to keep, got --quick.")
            _write(run, self.results)
            README.write_text(table.replace_block(README.read_text(), text, self.marks))


def _write(run: Run, path: pathlib.Path) -> None:
    path.write_text(json.dumps(run, indent=1) + "\n")
