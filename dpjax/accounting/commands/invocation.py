"""From the words of a command line to an answer, or to one line of what is wrong."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import flags

from dpjax import _files
from dpjax.accounting.commands import catalogue, options, plots
from dpjax.accounting.commands.options import COMMANDS, CommandError
from dpjax.accounting.commands.settings import Settings


def parse(
    argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS
) -> list[str]:
    """Parse the flags; what is wrong ends the program in one line, with status 2."""
    try:
        rest: list[str] = flag_values(argv)
    except flags.Error as error:
        _end(error)
    return rest


def main(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Do what the words and the parsed flags say, and print the answer."""
    try:
        command = _command(argv)
        print(run(command, options.read(command, flag_values), flag_values))
    except (ValueError, TypeError, OSError, OverflowError) as error:
        _end(error)


def run(command: str, settings: Settings, flag_values: flags.FlagValues) -> str:
    """Return the answer as text, its picture written if one was asked for."""
    answer = catalogue.ALL[command](settings)
    if flag_values["plot"].value is not None:
        plots.save(answer.draw(), flag_values["plot"].value)
    if flag_values["json"].value:
        data = {"command": command, **answer.data}
        return _files.encode(data, indent=2).decode().rstrip()
    return "\n".join(answer.lines).rstrip()


def _command(argv: Sequence[str]) -> str:
    words = list(argv[1:])
    if len(words) != 1 or words[0] not in COMMANDS:
        found = " ".join(words) or "none"
        raise CommandError(
            f"Expected one command ({', '.join(COMMANDS)}), got {found}. --help says "
            "more."
        )
    return words[0]


def _end(error: Exception) -> NoReturn:
    """Say in one line why the program ends."""
    print("dpjax.accounting:", " ".join(str(error).split()), file=sys.stderr)
    sys.exit(2)
