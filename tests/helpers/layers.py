"""Checks the imports of a package against a table of its layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

#: Module names by the name of their layer, the top layer first.
Layers = Mapping[str, Sequence[str]]


def import_problems(package: Path, layers: Layers) -> list[str]:
    """Return what is wrong with the imports between the modules in the folder `package`.

    Imports may go to the same layer and to lower ones, without a cycle. All imports count, also those inside functions
    and those for type checkers. `__init__` may export anything, and no module may import it.

    Args:
        package: Folder of the package.
        layers: The layer of each module but `__init__`.
    """
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    levels = {module: level for level, layer in enumerate(layers.values()) for module in layer}
    names = list(layers)
    problems = [f"{module} is in no layer" for module in sorted(modules - levels.keys())]
    problems += [f"{module} does not exist" for module in sorted(levels.keys() - modules)]
    graph = {module: set(imports(package, module)) for module in sorted(modules & levels.keys())}
    for module, imported in graph.items():
        for other in sorted(imported):
            if other not in levels:
                problems.append(f"{module} imports {other or 'the package root'}")
            elif levels[other] < levels[module]:
                problems.append(f"{module} ({names[levels[module]]}) imports {other} ({names[levels[other]]})")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        problems.append(f"cycle: {' <- '.join(error.args[1])}")
    return problems


def imports(package: Path, module: str) -> Iterator[str]:
    """Yield the modules of `package` that `module` imports; an empty string stands for the package itself."""
    names = {path.stem for path in package.glob("*.py")}
    tree = ast.parse((package / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root, _, rest = alias.name.partition(".")
                if root == package.name:
                    yield rest.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level == 0:
                root, _, source = source.partition(".")
                if root != package.name:
                    continue
            if source:
                yield source.partition(".")[0]
            else:
                yield from (alias.name if alias.name in names else "" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "__import__",
            "import_module",
        ):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and str(argument.value).partition(".")[0] == package.name:
                    yield str(argument.value).partition(".")[2].partition(".")[0]
