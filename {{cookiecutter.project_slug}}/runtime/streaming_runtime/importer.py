"""Finds the function's code as Lambda does: the module search path, and the handler by its name."""

from __future__ import annotations

import os
import sys

from .errors import RuntimeFault, formatted, import_trace, location

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from ._types import Handler

# `json` and what it imports. awslambdaric loads these before the function, so that a function's module of the same name
# has no effect. This runtime loads them later or not at all.
_PROTECTED = frozenset(
    {"collections", "copyreg", "enum", "functools", "json", "keyword", "operator", "re", "reprlib", "types"}
)


# Packages that are installed by another name than that of their module.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "dotenv": "python-dotenv",
    "jwt": "pyjwt",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


class _StandardLibraryFinder:
    """Finds the protected modules in the standard library, even if the function has modules of the same names."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name not in _PROTECTED:
            return None
        from importlib.machinery import PathFinder

        return PathFinder.find_spec(name, [os.path.dirname(os.__file__)])


def configure_sys_path() -> None:
    """Set the working directory and the module search path as on Lambda.

    First the function's code, then its layers (https://docs.aws.amazon.com/lambda/latest/dg/python-layers.html), last
    what Lambda provides. The first two are site directories, so that their ``.pth`` files count.
    """
    task_root = os.path.abspath(os.environ.get("LAMBDA_TASK_ROOT", ""))
    os.chdir(task_root)
    layer = "/opt/python"
    layer_packages = f"{layer}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    first = [path for path in (task_root, layer_packages, layer) if os.path.isdir(path)]
    last = [path for path in (os.environ.get("LAMBDA_RUNTIME_DIR", ""),) if os.path.isdir(path)]
    moved = [*first, *last]
    sys.path[:] = [*first, *(path for path in sys.path if path not in moved), *last]
    for path in first:
        if any(name.endswith(".pth") for name in os.listdir(path)):
            from site import addsitedir

            addsitedir(path)
    sys.meta_path.insert(0, _StandardLibraryFinder())


def load_handler(name: str) -> Handler:
    """Import the handler called `name`, such as ``app.handler`` or ``package/module.handler``.

    Raises:
        RuntimeFault: The name is malformed, its module cannot be imported, or the module has no such attribute.
        Exception: Anything else that the module raised during its import.
    """
    module_name, dot, attribute = name.rpartition(".")
    if not dot or not module_name or not attribute:
        raise RuntimeFault(
            "Runtime.MalformedHandlerName",
            f"Bad handler '{name}': it must name a module and a function, as app.handler",
        )
    if module_name.partition(".")[0] in sys.builtin_module_names:
        raise RuntimeFault(
            "Runtime.BuiltInModuleConflict", f"Cannot use built-in module {module_name} as a handler module"
        )
    dotted_name = module_name.replace("/", ".")
    try:
        __import__(dotted_name)
    except ImportError as error:
        problem = f"Unable to import module '{module_name}': {error}{_import_remedy(error, dotted_name)}"
        raise RuntimeFault("Runtime.ImportModuleError", problem, import_trace(error)) from error
    except SyntaxError as error:
        where = f'  File "{error.filename}" Line {error.lineno}\n    {error.text}'
        raise RuntimeFault(
            "Runtime.UserCodeSyntaxError", f"Syntax error in module '{module_name}': {error}", [where]
        ) from error
    module = sys.modules[dotted_name]
    try:
        handler: Handler = getattr(module, attribute)
    except AttributeError:
        functions = [value for value in vars(module).values() if getattr(value, "__module__", None) == dotted_name]
        found = [function for function in functions if hasattr(function, "__code__")]
        names = (
            ", ".join(f"{module_name}.{function.__name__}" for function in found) or f"{module_name}.NAME of a function"
        )
        problem = f"Handler '{attribute}' missing on module '{module_name}'; set Handler in template.yaml to {names}"
        lines = [line for function in found for line in location(function)]
        lines = lines or formatted([(str(module.__file__), 1, "<module>")])
        raise RuntimeFault("Runtime.HandlerNotFound", problem, lines) from None
    return handler


def _import_remedy(error: ImportError, module: str) -> str:
    missing = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or missing in sys.modules:
        return ""
    if missing == module.partition(".")[0]:
        return f"; set Handler in template.yaml to a module in {os.getcwd()}"
    return f"; add `{_DISTRIBUTIONS.get(missing, missing)}` to src/requirements.txt"
