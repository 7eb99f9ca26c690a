"""Contents of wheel and source distribution; the wheel works next to packages with generic names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from repository import ROOT
from scripts import SETTINGS, fair_judge

import flex_judge
from flex_judge.judges import FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine

pytestmark = pytest.mark.slow
UV = os.environ.get("UV", "uv")  # set by `uv run`
PACKAGES = ("judges", "reward", "alignment", "experiments")
BROKEN = "raise ModuleNotFoundError('a package of somebody else was imported')\n"
CALL = {"prompts": ["What is 2 + 3?", "What is 4 + 4?"], "completions": ["It is 5.", "It is 9."]}


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


@dataclass(frozen=True)
class Installed:
    """Core install next to packages named like our folders, and a working folder with such modules."""

    python: Path
    folder: Path

    def run(self, *command: str) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=environment, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout


def run_uv(*arguments: str | Path) -> None:
    done = subprocess.run([UV, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    run_uv("build", "--wheel", "--out-dir", folder / "wheel", ROOT)
    run_uv("build", "--sdist", "--out-dir", folder / "sdist", ROOT)
    (wheel,), (sdist,) = (folder / "wheel").glob("*.whl"), (folder / "sdist").glob("*.tar.gz")
    run_uv("build", "--wheel", "--out-dir", folder / "again", sdist)
    (again,) = (folder / "again").glob("*.whl")
    return Built(wheel, sdist, again)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    environment = tmp_path_factory.mktemp("environment")
    run_uv("venv", "--python", sys.executable, environment / "venv")
    python = environment / "venv" / "bin" / "python"
    run_uv("pip", "install", "--python", python, built.wheel)
    (site_packages,) = (environment / "venv").glob("lib/python*/site-packages")
    folder = environment / "work"
    for package in (*(site_packages / name for name in PACKAGES), folder / "experiments"):
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(BROKEN)
    (folder / "reward.py").write_text(BROKEN)
    return Installed(python, folder)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    from served import served

    with served(FlexJudge(ScriptedEngine(fair_judge), SETTINGS)) as service:
        yield service.url


def checksums(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


def source_files() -> set[str]:
    """List the files of the four packages by their names in the wheel."""
    files = (path for name in PACKAGES for path in (ROOT / name).rglob("*"))
    own = {f"flex_judge/{p.relative_to(ROOT)}" for p in files if p.is_file() and p.parent.name != "__pycache__"}
    return own | {f"flex_judge/{path.name}" for path in (ROOT / "flex_judge").iterdir() if path.is_file()}


def test_wheel_contains_one_package_with_all_files(built: Built) -> None:
    names = checksums(built.wheel).keys()
    metadata = f"flex_judge-{flex_judge.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"flex_judge", metadata}
    assert {name for name in names if name.startswith("flex_judge/")} == source_files()
    kinds = {Path(name).suffix for name in names}
    assert {".py", ".toml", ".yaml", ".html", ".safetensors", ".json"} <= kinds


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "judges/rubrics/presets/general.toml",
        "experiments/common/reporting/templates/report.html",
        "judges/models/embedded/flex-smollm2-135m/adapter_model.safetensors",
    ],
)
def test_wheel_contains_data_files(built: Built, name: str) -> None:
    assert f"flex_judge/{name}" in checksums(built.wheel)


def test_source_distribution_builds_the_same_wheel(built: Built) -> None:
    assert checksums(built.wheel_of_sdist) == checksums(built.wheel)
    with tarfile.open(built.sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert source_files() <= members.keys()
    assert not [member for member in members.values() if member.issym() or member.islnk()]
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt"} <= members.keys()


def test_wheel_metadata(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().partition("\n\n")[0].splitlines()
    assert f"Version: {flex_judge.__version__}" in lines
    assert "License-Expression: Apache-2.0" in lines
    unconditional = [line for line in lines if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert len(unconditional) == 4


def test_the_command_works_beside_packages_of_generic_names(installed: Installed) -> None:
    command = str(installed.python.with_name("flex-judge"))
    assert installed.run(command, "--version").strip() == flex_judge.__version__
    assert "demo" in installed.run(command, "--help")
    assert "demo" in installed.run(str(installed.python), "-m", "flex_judge.experiments.cli", "--help")


def test_packages_of_the_same_names_are_not_shadowed(installed: Installed) -> None:
    for name in PACKAGES:
        code = f"try:\n    import {name}\nexcept ModuleNotFoundError as e:\n    print(e)"
        assert "somebody else" in installed.run(str(installed.python), "-c", code)


def test_finds_data_files_after_installation(installed: Installed) -> None:
    code = (
        "from importlib import resources; from flex_judge.judges.rubrics import load_rubric, list_rubrics\n"
        "print(len([load_rubric(name) for name in list_rubrics()]) > 10)\n"
        "print((resources.files('flex_judge.experiments.common.reporting') / 'templates' / 'report.html').is_file())"
    )
    assert installed.run(str(installed.python), "-c", code).split() == ["True", "True"]


def test_core_install_gets_rewards_from_a_service(installed: Installed, url: str) -> None:
    from flex_judge.reward.trl import JudgeReward

    settings = {"rubric": "correctness", "run": "a"}
    (installed.folder / "train.py").write_text(
        "import json, sys\nfrom flex_judge import JudgeReward\n"
        f"print(json.dumps(JudgeReward(sys.argv[1], **{settings!r})(**{CALL!r})))\n"
    )
    rewards = json.loads(installed.run(str(installed.python), "train.py", url))
    assert rewards == JudgeReward(url, rubric="correctness", run="b")(**CALL)
    assert all(isinstance(reward, float) for reward in rewards)


def test_core_install_judges_with_the_client(installed: Installed, url: str) -> None:
    code = (
        "import sys; from flex_judge import Comparison, JudgeClient\n"
        "comparison = Comparison.of('What is 2 + 3?', 'It is 5.', 'It is 6.', rubric='correctness')\n"
        "print(JudgeClient(sys.argv[1]).judge_sync([comparison])[0].status)"
    )
    assert installed.run(str(installed.python), "-c", code, url).strip() == "ok"
