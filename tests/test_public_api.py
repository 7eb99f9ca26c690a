"""Public names: every package exports its API lazily, and importing a package loads nothing heavy."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import subprocess
import sys
from importlib.metadata import entry_points, version
from types import ModuleType

import pytest

import flex_judge

PACKAGES = (
    "flex_judge",
    "flex_judge.judges",
    "flex_judge.judges.media",
    "flex_judge.reward",
    "flex_judge.reward.client",
    "flex_judge.alignment",
    "flex_judge.alignment.best_of_n",
    "flex_judge.alignment.policies",
    "flex_judge.alignment.preferences",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_imported(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert sorted(module.__all__) == list(dict.fromkeys(sorted(module.__all__)))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_shadows_a_public_name(package: str) -> None:
    module = importlib.import_module(package)
    assert not set(module.__all__) & {info.name for info in pkgutil.iter_modules(module.__path__)}


def test_unknown_name_raises_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'flex_judge' has no attribute 'no_such_name'"):
        _ = flex_judge.no_such_name


def test_top_level_api_is_complete() -> None:
    assert set(flex_judge.__all__) == {
        "AsyncJudgeReward",
        "Comparison",
        "FlexJudge",
        "JudgeClient",
        "JudgeReward",
        "Judgment",
        "Message",
        "Status",
        "__version__",
    }
    assert flex_judge.__version__ == version("flex-judge")


def test_star_imports_the_public_api() -> None:
    names: dict[str, object] = {}
    exec("from flex_judge import *", names)
    assert set(flex_judge.__all__) <= set(names)


def test_plugins_are_listed_where_their_framework_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(flex_judge.__all__)
    assert not before & {"JudgedGroupEnv", "TraceJudge"}
    monkeypatch.setitem(sys.modules, "verifiers.v1.judge", ModuleType("verifiers.v1.judge"))
    assert set(flex_judge.__all__) == before | {"JudgedGroupEnv", "TraceJudge"}


def test_importing_the_package_loads_only_itself() -> None:
    check = "import sys, flex_judge; print(*sorted(m for m in sys.modules if m.startswith('flex_judge')))"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["flex_judge", "flex_judge.lazy", "flex_judge.models"]


def test_rewards_and_clients_can_be_pickled() -> None:
    reward = flex_judge.JudgeReward("http://127.0.0.1:1")
    client = flex_judge.JudgeClient("http://127.0.0.1:1")
    for value in (reward, client):
        data = pickle.dumps(value)
        assert b"flex_judge.reward" in data
        assert type(pickle.loads(data)) is type(value)


@pytest.mark.parametrize(
    "address",
    [
        "flex_judge.reward.app:build",
        "flex_judge.reward.app:application",
        "flex_judge.reward.verl:compute_score",
        "flex_judge.experiments.cli:main",
    ],
)
def test_import_strings_for_other_tools_resolve(address: str) -> None:
    module, _, name = address.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_the_command_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="flex-judge")
    assert script.value == "flex_judge.experiments.cli:main"
