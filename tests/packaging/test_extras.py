"""Errors for missing extras, and agreement of the table of extras with pyproject.toml."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
import types
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from core_only import CORE, run_command_in_core, run_in_core
from repository import ROOT

from flex_judge.experiments.cli import COMMANDS, TRAINING_COMMANDS
from flex_judge.experiments.common.command_extras import COMMAND_EXTRAS
from flex_judge.judges import extras
from flex_judge.judges.errors import EngineUnavailableError, UsageError
from flex_judge.judges.extras import EXTRAS, INCLUDED_EXTRAS, MissingExtraError, describe_missing_extras, is_instance_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
THROUGH_OTHERS = {"annotated_types", "pydantic_core", "huggingface_hub", "tokenizers", "starlette", "packaging", "grpc"}
"""Imported libraries that are dependencies of pydantic, transformers, FastAPI and Ray Serve."""
TRAINERS = {"verl": "reward/integrations/verl_manager.py", "openrlhf": "reward/openrlhf.py"}
TRAINERS |= {"verifiers": "reward/verifiers.py", "nemo_gym": "reward/nemo_gym.py"}
"""Trainers whose plug-ins import them, and the only module that does so."""


def get_distribution_names(requirements: list[str]) -> set[str]:
    """Get the distribution names of requirements, in lower case with dashes."""
    return {re.split(r"[\[<>=~! ;]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


@pytest.mark.parametrize(("command", "needed"), COMMAND_EXTRAS.items())
def test_error_names_the_extra_and_the_install_command(command: str, needed: tuple[str, ...]) -> None:
    done = run_command_in_core(command, *{"report": ["a-run"], "bench": ["prefix"]}.get(command, []))
    noun = "extra" if len(needed) == 1 else "extras"
    names = ", ".join(f"'{name}'" for name in needed)
    install = f"pip install 'flex-judge[{','.join(needed)}]'"
    assert done.stderr == f"flex-judge: error: flex-judge {command} needs the {noun} {names}: {install}\n"
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "from flex_judge import FlexJudge; FlexJudge.from_pretrained('smollm2-135m')",
            "FlexJudge needs the extra 'judge': pip install 'flex-judge[judge]'",
        ),
        (
            "from flex_judge.judges.engines import EngineConfig, load_engine; load_engine(EngineConfig('a/b'))",
            "a judge or policy in this process needs the extra 'judge': pip install 'flex-judge[judge]'",
        ),
        (
            "from flex_judge.reward.serving.cluster import connect; connect().__enter__()",
            "a cluster of judges on Ray needs the extra 'serve': pip install 'flex-judge[serve]'",
        ),
    ],
)
def test_python_entry_points_raise_the_same_error(code: str, message: str) -> None:
    done = run_in_core(code, check=False)
    assert done.stderr.splitlines()[-1] == f"flex_judge.judges.extras.MissingExtraError: {message}"


def test_the_error_is_a_usage_error_and_an_import_error() -> None:
    assert issubclass(MissingExtraError, EngineUnavailableError)
    assert issubclass(MissingExtraError, UsageError)
    assert issubclass(MissingExtraError, ImportError)


def test_a_failed_import_within_a_command_names_the_extra() -> None:
    code = (
        "from types import SimpleNamespace\n"
        "from flex_judge.experiments import cli\n"
        "def run(options):\n    import torch\n"
        "module = SimpleNamespace(add_arguments=lambda parser: None, main=run)\n"
        "cli.COMMANDS['doctor'] = SimpleNamespace(help='', stop_plan='', load_package=lambda: module)\n"
        "print(cli.main(['doctor']))"
    )
    done = run_in_core(code)
    assert done.stdout.strip() == "2"
    assert done.stderr.startswith("flex-judge: error: flex-judge doctor needs the extra 'judge': ")


def test_error_names_only_missing_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"trl"}
    monkeypatch.setattr(extras, "is_installed", lambda module: module not in missing)
    with pytest.raises(
        MissingExtraError, match=r"^a thing needs the extra 'train': pip install 'flex-judge\[train\]'$"
    ):
        extras.require_extras("a thing", "serve", "train")
    missing |= {"torch"}  # both extras include it
    with pytest.raises(MissingExtraError, match=r"the extras 'serve', 'train': .*\[serve,train\]'$"):
        extras.require_extras("a thing", "serve", "train")
    extras.require_extras("a thing", "eval", "molecules")


def test_every_command_but_doctor_and_report_has_its_extras() -> None:
    assert {*COMMANDS, *TRAINING_COMMANDS} - COMMAND_EXTRAS.keys() == {"doctor", "report"}
    assert {extra for needed in COMMAND_EXTRAS.values() for extra in needed} <= EXTRAS.keys()


def test_the_core_has_four_dependencies() -> None:
    assert get_distribution_names(PROJECT["dependencies"]) == {"httpx", "pydantic", "pyyaml", "rich"}
    assert not [requirement for requirement in PROJECT["dependencies"] if "<" in requirement or "==" in requirement]


@pytest.mark.parametrize("extra", EXTRAS)
def test_modules_of_an_extra_are_in_pyproject(extra: str) -> None:
    requirements = PROJECT["optional-dependencies"][extra]
    names = get_distribution_names(requirements)
    installed = packages_distributions()
    for module in EXTRAS[extra]:
        providers = {name.lower().replace("_", "-").removesuffix("-cpu") for name in installed[module]}
        assert providers & names, f"{module} is brought by {providers}, not among {sorted(names)}"
    included = re.findall(r"flex-judge\[([a-z,-]+)\]", " ".join(requirements))
    assert tuple(",".join(included).split(",")) == INCLUDED_EXTRAS.get(extra, ("",))


def test_every_imported_library_is_in_the_core_or_an_extra() -> None:
    known = {"flex_judge", *CORE, *THROUGH_OTHERS, *sys.stdlib_module_names}
    known |= {module for modules in EXTRAS.values() for module in modules}
    unknown = {}
    for path in (ROOT / "flex_judge").glob("*/**/*.py"):
        allowed = {name for name, module in TRAINERS.items() if path == ROOT / "flex_judge" / module}
        unknown |= {name: path for name in find_imported_names(path) if name not in known | allowed}
    assert not unknown


def find_imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_error_for_several_extras() -> None:
    sentence = "flex-judge demo needs the extras 'serve', 'train': pip install 'flex-judge[serve,train]'"
    assert describe_missing_extras("flex-judge demo", ["serve", "train"]) == sentence


def test_a_module_that_another_thread_imports_has_no_instances_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "half_imported", types.ModuleType("half_imported"))
    assert not is_instance_of("a.png", "half_imported", "Image")
