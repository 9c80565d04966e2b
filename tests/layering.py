"""Checks of the house's shape: layers, the facade, what is declared.

A check is a function from the texts of files, by path, to complaints. All is read from
their syntax trees: nothing is imported or run.
"""

import ast
import collections
import functools
import graphlib
import re
import sys

LAYERS = [
    {"types"},
    {"_manual", "_meshes"},
    {"_check", "_equations", "_events", "_files", "_versions"},
    {"_convolutions"},
    {"_apart"},
    {"autodiff", "noise", "sampling", "accounting"},
    {"clipping", "curvature"},
    {"optimizers"},
    {"mechanism"},
    {"diagnostics", "release"},
    {"training"},
    {"auditing"},
    {"report"},
]
LEVELS = {part: level for level, parts in enumerate(LAYERS) for part in parts}

FACADE = "dpjax/__init__.py"

# Distributions that are not called what they are imported as.
DISTRIBUTIONS = {
    "absl": "absl-py",
    "dp_accounting": "dp-accounting",
    "jax_privacy": "jax-privacy",
    "orbax": "orbax-checkpoint",
    "prv_accountant": "prv-accountant",
    "sklearn": "scikit-learn",
}


def label(path):
    return path.removesuffix(".py").removesuffix("/__init__")


def modules(sources):
    """Map the names that an import can use to paths.

    examples and tests are themselves on the path, so their files go by bare names.
    """
    bare = {label(path).rpartition("/")[2]: path for path in sources if outside(path)}
    return bare | {label(path).replace("/", "."): path for path in sources}


def outside(path):
    return not path.startswith("dpjax/")


@functools.cache
def parsed(text):
    """Return the syntax tree of a file, made once for all checks."""
    return ast.parse(text)


@functools.cache
def import_nodes(text):
    """Return the import statements of a file, wherever they stand."""
    kinds = ast.Import | ast.ImportFrom
    return [node for node in ast.walk(parsed(text)) if isinstance(node, kinds)]


def names_of(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(text):
    return names_of(import_nodes(text))


def guarded(tree):
    """Return the top statements that stand in a `try` for want of an extra."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.Try):
            caught = [
                handler.type and ast.unparse(handler.type) for handler in node.handlers
            ]
            found += node.body * (caught == ["ImportError"])
    return found


def find(name, known):
    """Return the path of the longest beginning of `name` that is a module."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return known.get(name)


def dependencies(sources):
    known = modules(sources)
    found = {
        path: {find(name, known) for name in imports(text)}
        for path, text in sources.items()
    }
    return {path: paths - {path, None} for path, paths in found.items()}


# Layers.


def part(path):
    return path.split("/")[1].removesuffix(".py")


def layer_complaints(sources):
    for path, needed in dependencies(sources).items():
        if outside(path) or path == FACADE:
            continue
        if part(path) not in LEVELS:
            yield f"{path} has no layer"
            continue
        for other in sorted(needed):
            if outside(other) or other == FACADE:
                yield f"{path} imports {other}, which stands above every layer"
            elif part(other) != part(path) and (
                LEVELS.get(part(other), len(LEVELS)) >= LEVELS[part(path)]
            ):
                yield f"{path} imports {other}, which is not below it"


def placement_complaints(sources):
    for path, text in sources.items():
        tree = parsed(text)
        top = tree.body + guarded(tree)
        for node in import_nodes(text):
            if node not in top:
                yield f"{path}:{node.lineno} imports elsewhere than at the top"
            if getattr(node, "level", 0):
                yield f"{path}:{node.lineno} imports relatively"


def cycle_complaints(sources):
    try:
        graphlib.TopologicalSorter(dependencies(sources)).prepare()
    except graphlib.CycleError as error:
        yield "a cycle: " + " <- ".join(error.args[1])


# The facade.


def bound(sources, path):
    """Map each name that a module binds at its top to its import, or to None."""
    names = {}
    for node in parsed(sources[path]).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = None
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in ast.walk(node):
                if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store):
                    names[target.id] = None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def is_defined(sources, origin):
    known = modules(sources)
    if origin in known:
        return True
    module, _, name = origin.rpartition(".")
    if module not in known or name not in (names := bound(sources, known[module])):
        return False
    return names[name] is None or is_defined(sources, names[name])


def facade_complaints(sources):
    names = []
    for node in parsed(sources[FACADE]).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("dpjax"):
            names += [alias.asname or alias.name for alias in node.names]
        elif not re.match(r"__all__ = |'''|'", ast.unparse(node).replace('"', "'")):
            yield f"the facade holds more than names: {ast.unparse(node)}"
    for name, count in collections.Counter(names).items():
        if count > 1:
            yield f"{name} stands {count} times in the facade"
    for name, origin in bound(sources, FACADE).items():
        if origin and not is_defined(sources, origin):
            yield f"{name} is not defined at {origin}"


# What is declared.


def declared(project, extras):
    groups = project.get("optional-dependencies", {})
    wanted = project["dependencies"] + [r for extra in extras for r in groups[extra]]
    return {re.match(r"[\w-]+", requirement)[0] for requirement in wanted}


def reached(path, graph):
    seen, ahead = set(), [path]
    while ahead:
        if (path := ahead.pop()) not in seen:
            seen.add(path)
            ahead += graph[path]
    return seen


EXTRAS = {
    "dpjax/": ["train", "audit"],
    "examples/": ["train"],
    "tests/": ["train", "test"],
    "tests/benchmarks/": ["train", "audit", "test", "bench"],
    "tests/benchmarks/opacus_": ["opacus"],
}


def requirement_complaints(sources, project):
    """The facade must do with what every installation brings, extras being guarded."""
    known, core = modules(sources), reached(FACADE, dependencies(sources))
    for path, text in sources.items():
        folder = max((f for f in EXTRAS if path.startswith(f)), key=len)
        free = [] if path in core else EXTRAS[folder]
        brought = declared(project, free)
        hoped = declared(project, EXTRAS[folder])
        guard = set(names_of(guarded(parsed(text))))
        for name in sorted(set(imports(text))):
            first = name.split(".")[0]
            if find(name, known) or first in sys.stdlib_module_names:
                continue
            if DISTRIBUTIONS.get(first, first) not in (
                hoped if name in guard else brought
            ):
                yield f"{path} imports {name}, which its installation does not bring"
