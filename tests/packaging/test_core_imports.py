"""Features of a core install: client, reward functions, command-line help, doctor."""

from __future__ import annotations

import json

import pytest
from core_only import run_command_in_core, run_in_core

import flex_judge
from flex_judge.experiments.common.command_extras import COMMAND_EXTRAS, HELP_NEEDS_EXTRAS

URL = "http://127.0.0.1:9"


def test_hides_packages_outside_the_core() -> None:
    done = run_in_core("import torch", check=False)
    assert "ModuleNotFoundError: No module named 'torch'" in done.stderr


@pytest.mark.parametrize("name", flex_judge.__all__)
def test_every_public_name_imports(name: str) -> None:
    run_in_core(f"from flex_judge import {name}")


@pytest.mark.parametrize(
    "code",
    [
        f"from flex_judge.reward.trl import JudgeReward; JudgeReward({URL!r})",
        f"from flex_judge.reward.trl import AsyncJudgeReward; AsyncJudgeReward({URL!r}, method='knockout')",
        f"from flex_judge.reward.client import JudgeClient; JudgeClient({URL!r})",
        "from flex_judge.reward.verl import compute_score, compute_score_sync",
        "from flex_judge.reward.slime import judge_reward, normalize_rewards",
        f"from flex_judge.reward.integrations.service import ServiceSettings; ServiceSettings(url={URL!r})",
        "from flex_judge import Comparison; Comparison.of('What is 2 + 3?', '5', '6')",
        "from flex_judge.judges import JudgeConfig, JudgeSettings, Media, Status",
        "from flex_judge.judges.rubrics import list_rubrics, load_rubric; [load_rubric(n) for n in list_rubrics()]",
        "from flex_judge.alignment.policies import PolicyConfig",
        "import flex_judge.alignment, flex_judge.experiments, flex_judge.reward",
    ],
)
def test_entry_points_import_and_construct(code: str) -> None:
    run_in_core(code)


def test_reward_functions_pickle_under_their_public_package() -> None:
    code = (
        "import pickle; from flex_judge import AsyncJudgeReward, JudgeClient, JudgeReward\n"
        f"values = [JudgeReward({URL!r}, run='a'), AsyncJudgeReward({URL!r}, run='a'), JudgeClient({URL!r})]\n"
        "data = pickle.dumps(values)\n"
        "print([type(value).__module__ for value in pickle.loads(data)], b'torch' in data)"
    )
    modules = ["flex_judge.reward.trl", "flex_judge.reward.trl", "flex_judge.reward.client.client"]
    assert run_in_core(code).stdout.strip() == f"{modules} False"


def test_client_sends_media_files_without_a_decoder() -> None:
    code = (
        "from flex_judge import Comparison\n"
        "from flex_judge.judges.media.opening import make_audio, make_image, make_molecule, make_video\n"
        "from flex_judge.reward.integrations.rows import ImageCache\n"
        "media = [make(b'some bytes') for make in (make_image, make_video, make_audio, ImageCache())]\n"
        "print([m.modality.value for m in media], make_molecule('CCO').data, len({m.digest for m in media}))"
    )
    assert run_in_core(code).stdout.split("\n")[0] == "['image', 'video', 'audio', 'image'] b'CCO' 3"


def test_client_still_rejects_invalid_media_files() -> None:
    code = (
        "from flex_judge.judges.errors import MediaError\n"
        "from flex_judge.judges.media.opening import make_audio, make_image\n"
        "for make, source in ((make_image, b''), (make_image, 3), (make_image, 'none.png'), (make_audio, b'')):\n"
        "    try:\n        make(source)\n    except MediaError as e:\n        print(e)"
    )
    lines = run_in_core(code).stdout.splitlines()
    assert lines == [
        "image in memory: is empty",
        "image: expected a path, bytes or a data URI, got int",
        "none.png: cannot be read: No such file or directory",
        "audio in memory: is empty",
    ]


def test_audio_samples_without_the_extra_name_it() -> None:
    code = (
        "from flex_judge.judges.extras import MissingExtraError\n"
        "from flex_judge.judges.media.opening import make_audio\n"
        "try:\n    make_audio([0.0, 0.5], rate=16000)\nexcept MissingExtraError as e:\n    print(e)"
    )
    message = "a medium given as an array needs the extra 'judge': pip install 'flex-judge[judge]'"
    assert run_in_core(code).stdout.strip() == message


def test_help_and_version() -> None:
    assert "COMMAND" in run_command_in_core("--help").stdout
    assert run_command_in_core("--version").stdout.strip() == flex_judge.__version__


@pytest.mark.parametrize("command", [*sorted(COMMAND_EXTRAS.keys() - set(HELP_NEEDS_EXTRAS)), "doctor"])
def test_help_of_commands(command: str) -> None:
    done = run_command_in_core(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"flex-judge {command}" in done.stdout


def test_doctor_lists_missing_extras() -> None:
    done = run_command_in_core("doctor", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["extras"]["detail"].startswith("none; not installed: judge, serve, train, eval.")
    assert checks["torch"]["status"] == "missing"
    assert not [check for check in checks.values() if "check failed" in check["detail"]]
