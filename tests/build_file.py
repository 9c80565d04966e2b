"""What BUILD must say, from the imports, and what it says."""

import ast

import layering

RUNNER = "tests/__main__.py"
CONFTEST = "tests/conftest.py"


def rule(path, text):
    if path.startswith("tests/") and path.rpartition("/")[2].startswith("test_"):
        return "py_test"
    tests = [
        ast.unparse(n.test) for n in layering.parsed(text).body if isinstance(n, ast.If)
    ]
    is_script = layering.outside(path) and "__name__ == '__main__'" in tests
    return "py_binary" if is_script else "py_library"


def expected_targets(sources):
    for path, needed in layering.dependencies(sources).items():
        kind = rule(path, sources[path])
        fields = {"name": layering.label(path), "srcs": [path], "deps": needed}
        if kind == "py_test":
            fields |= {"srcs": [path, RUNNER], "main": RUNNER, "args": [path]}
            fields["deps"] = needed | {CONFTEST}
        elif kind == "py_binary":
            fields["main"] = path
        fields["deps"] = [":" + layering.label(other) for other in fields["deps"]]
        if path != RUNNER:
            yield kind, {k: normal(v) for k, v in fields.items() if v}


def normal(value):
    return sorted(value) if isinstance(value, list) else value


def actual_targets(build):
    """Read the rules of BUILD, a file in Python's syntax; `data` and such go free."""
    checked = {"name", "srcs", "main", "args", "deps"}
    for statement in ast.parse(build).body:
        call = getattr(statement, "value", None)
        if isinstance(call, ast.Call) and call.func.id.startswith("py_"):
            fields = [field for field in call.keywords if field.arg in checked]
            values = {f.arg: normal(ast.literal_eval(f.value)) for f in fields}
            yield call.func.id, {k: v for k, v in values.items() if v}


def written(kind, fields):
    lines = [f"    {key} = {value!r},\n" for key, value in sorted(fields.items())]
    return f"{kind}(\n{''.join(lines)})\n".replace("'", '"')


def build_complaints(sources, build):
    expected = [written(*target) for target in expected_targets(sources)]
    actual = [written(*target) for target in actual_targets(build)]
    for target in actual:
        if target not in expected:
            yield "BUILD has what the imports do not say:\n" + target
    for target in expected:
        if actual.count(target) != 1:
            yield f"BUILD has {actual.count(target)} times, not once:\n" + target
