"""Runs the local tools on the application's functions, each with its own requirements and layers.

`make dev`, `make invoke` and `make probe` call this through uv, which provides what the list below names.
"""
# /// script
# requires-python = ">=3.11"
# dependencies = ["pyyaml>=6.0.3"]
# ///

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
# What `python -m local` imports.
TOOLS = ("botocore>=1.40", "h11>=0.16", "pyyaml>=6.0.3", "rich>=15.0", "watchfiles>=1.3")

# What it imports with --debug.
DEBUGGER = ("debugpy>=1.8.22",)


def main(arguments: list[str] | None = None) -> int:
    """Start what is asked for in place of this process.

    Returns:
        Exit status, where it could not be started.
    """
    options, more = _parser().parse_known_args(arguments)
    if options.command == "probe":
        if not options.url:
            print("dev.py: give a URL, as in: make probe URL=http://127.0.0.1:3000/", file=sys.stderr)
            return 2
        return _start([], {}, "local.probe", "--expect-streaming", *more, options.url)
    manifest = json.loads((HERE / "adopted.json").read_text(encoding="utf-8"))
    adopted = sorted({*manifest["functions"], *manifest["patches"]})
    function = options.function or (adopted[0] if len(adopted) == 1 else "")
    if function not in adopted:
        print(f"dev.py: name an adopted function with FUNCTION=… (adopted: {', '.join(adopted)})", file=sys.stderr)
        return 2
    path = (HERE.parent / manifest["template"]).resolve()
    template = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    folders = [path.parent / folder for folder in _code_folders(template, function)]
    given = ("--port", options.port) if options.command == "serve" else ("--event", _event(options.event))
    command = ("local", "--template", str(path), "--function", function, *given)
    return _start(folders, _variables(folders[1:]), *command, *more)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="What else is given goes to `python -m local` as it is.", allow_abbrev=False
    )
    parser.add_argument("command", choices=("serve", "invoke", "probe"))
    parser.add_argument("--function", default="", help="logical ID (default: the only adopted function)")
    parser.add_argument("--port", default="3000")
    parser.add_argument("--event", default="", help="file with the event, relative to this folder")
    parser.add_argument("--url", default="")
    return parser


def _event(name: str) -> str:
    return str(HERE / name) if name and name != "-" else "-"


def _code_folders(template: dict[str, Any], function: str) -> Iterator[str]:
    """Return the function's CodeUri, then the folders of Python code of its layers in this template."""
    defaults = template.get("Globals", {}).get("Function", {})
    own = template["Resources"][function]["Properties"]
    yield str(own.get("CodeUri", defaults.get("CodeUri", ".")))
    for layer in [*defaults.get("Layers", ()), *own.get("Layers", ())]:
        resource = template["Resources"].get(layer.get("Ref", "")) if isinstance(layer, dict) else None
        uri = resource["Properties"].get("ContentUri") if resource else None
        if isinstance(uri, str):
            yield uri


def _variables(layers: list[Path]) -> dict[str, str]:
    """Return the variables with which a function runs here as it would on Lambda."""
    # On Lambda a layer's `python` folder is on the path; with a BuildMethod the build makes it from the layer's files.
    paths = [folder / "python" if (folder / "python").is_dir() else folder for folder in layers]
    variables = {"PYTHONPATH": os.pathsep.join(str(path.resolve()) for path in paths if path.is_dir())} if paths else {}
    # Bytecode beside the runtime would become a part of the layer.
    variables["PYTHONPYCACHEPREFIX"] = str(HERE / ".pycache")
    # A wrapper of another layer is not on this machine.
    variables["STREAMING_RUNTIME_EXEC_WRAPPER"] = os.environ.get("STREAMING_RUNTIME_EXEC_WRAPPER", "")
    return variables


def _start(folders: list[Path], variables: dict[str, str], module: str, *arguments: str) -> int:
    command = ["uv", "run", "--quiet", "--no-project"]
    for tool in [*TOOLS, *DEBUGGER] if "--debug" in arguments else TOOLS:
        command += ["--with", tool]
    for folder in folders:
        for requirements in (folder / "requirements.txt", folder / "python" / "requirements.txt"):
            if requirements.is_file():
                command += ["--with-requirements", str(requirements)]
    os.chdir(HERE)
    try:
        os.execvpe("uv", [*command, "python", "-m", module, *arguments], {**os.environ, **variables})
    except OSError as error:
        print(f"dev.py: cannot run uv: {error}", file=sys.stderr)
        return 1


class _Loader(yaml.SafeLoader):
    """Reads YAML with CloudFormation's tags."""


def _intrinsic(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    return {tag: node.value if isinstance(node, yaml.ScalarNode) else None}


_Loader.add_multi_constructor("!", _intrinsic)

if __name__ == "__main__":
    sys.exit(main())
