"""README's quickstart is the script, the script is short, and it runs."""

import doctest
import pathlib
import re

import quickstart
from absl import flags

from dpjax.accounting.commands import invocation, options

ROOT = pathlib.Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "examples" / "quickstart.py"
README = ROOT / "README.md"


def code_blocks(language):
    pattern = rf"```{language}\n(.*?)```"
    return re.findall(pattern, README.read_text(), re.DOTALL)


def test_readme_shows_the_quickstart_whole():
    assert QUICKSTART.read_text() in code_blocks("python")


def test_the_quickstart_is_shorter_than_sixty_lines():
    assert len(QUICKSTART.read_text().splitlines()) < 60


def test_the_quickstart_runs_and_prints_what_its_doctest_says():
    result = doctest.testmod(quickstart)
    assert result.attempted == 1
    assert result.failed == 0


def test_readme_installs_and_runs_in_one_line_each():
    commands = [block.strip() for block in code_blocks("sh")]
    assert all("\n" not in command for command in commands)
    assert commands[0].startswith("python3 -m venv")
    assert "examples/train.py" in commands[0]
    assert "pytest" in commands[1]


def test_ci_finds_the_test_command_in_readme():
    script = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -m 1 -E '(.*)' README.md", script).group(1)
    lines = [
        line for line in README.read_text().splitlines() if re.search(pattern, line)
    ]
    assert lines == [code_blocks("sh")[1].strip()]


def test_readme_shows_what_the_accountants_answer():
    blocks = [block for block in code_blocks("python") if block.startswith(">>>")]
    examples = "\n".join(blocks)
    parsed = doctest.DocTestParser().get_doctest(examples, {}, "README", None, None)
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(parsed)
    assert result.attempted > 20
    assert result.failed == 0


def test_readme_shows_what_the_command_line_answers():
    (command,) = [block for block in code_blocks("sh") if "dpjax.accounting" in block]
    words = command.split()[3:]
    flag_values = flags.FlagValues()
    options.define(flag_values)
    name, *_ = invocation.parse(["accounting", *words], flag_values)[1:]
    settings = options.read(name, flag_values)
    said = invocation.run(name, settings, flag_values)
    assert code_blocks("text") == [said + "\n"]
