"""Reward functions with settings from environment variables."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from repository import ROOT

from flex_judge.judges.errors import UsageError
from flex_judge.reward.integrations.environment import (
    EXTRA_REWARDS_VARIABLE,
    OTHER_VARIABLES,
    SLEEP_VARIABLE,
    URL_VARIABLE,
    load_reward_environment,
    name_variable,
)
from flex_judge.reward.settings import RewardSettings

URL = {"FLEX_JUDGE_URL": "http://10.0.0.1:8000"}


def test_reads_texts_numbers_and_choices() -> None:
    variables = {
        "FLEX_JUDGE_RUBRIC": " correctness ",
        "FLEX_JUDGE_METHOD": "round_robin",
        "FLEX_JUDGE_REWARD": "win_rate",
        "FLEX_JUDGE_GROUP_SIZE": "8",
        "FLEX_JUDGE_GROUP_TIMEOUT_S": "30",
        "FLEX_JUDGE_LENGTH_PENALTY": "0.01",
        "FLEX_JUDGE_LENGTH_LIMIT": "200",
        "FLEX_JUDGE_DEADLINE_S": "none",
        "FLEX_JUDGE_NORMALIZE": "",
        "PATH": "/bin",
    }
    environment = load_reward_environment(URL | variables)
    assert environment.url == "http://10.0.0.1:8000"
    assert environment.settings == RewardSettings(
        rubric="correctness",
        method="round_robin",
        reward="win_rate",
        group_size=8,
        group_timeout_s=30.0,
        length_penalty=0.01,
        length_limit=200,
    )
    assert load_reward_environment(URL).settings == RewardSettings()


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"FLEX_JUDGE_RUBIC": "x"}, "FLEX_JUDGE_RUBIC: no such setting; did you mean 'FLEX_JUDGE_RUBRIC'?"),
        ({"FLEX_JUDGE_METHOD": "dice"}, "FLEX_JUDGE_METHOD must be one of pointwise, "),
        ({"FLEX_JUDGE_GROUP_SIZE": "many"}, "FLEX_JUDGE_GROUP_SIZE must be of type int, not 'many'"),
        ({"FLEX_JUDGE_GROUP_SIZE": "0"}, "FLEX_JUDGE_GROUP_SIZE must be from 1 to 1024, not 0"),
        ({"FLEX_JUDGE_LENGTH_PENALTY": "1"}, "FLEX_JUDGE_LENGTH_LIMIT must be set if length_penalty is above 0"),
        ({"FLEX_JUDGE_METHOD": "baseline"}, "FLEX_JUDGE_BASELINE_COLUMN: must name a column of answers"),
        ({"FLEX_JUDGE_URL": ""}, "FLEX_JUDGE_URL is not set; set it to the judge service"),
        ({"FLEX_JUDGE_URL": "10.0.0.1:8000"}, "FLEX_JUDGE_URL must begin with http:// or https://"),
        (
            {"FLEX_JUDGE_GRANULARITY": "turn", "FLEX_JUDGE_METHOD": "knockout"},
            "FLEX_JUDGE_GRANULARITY 'turn' scores each turn after its own conversation",
        ),
        ({"FLEX_JUDGE_EXTRA_REWARDS": "no_module.f=1"}, "FLEX_JUDGE_EXTRA_REWARDS: expected module.function=weight"),
        ({"FLEX_JUDGE_EXTRA_REWARDS": "json.dumps=much"}, "FLEX_JUDGE_EXTRA_REWARDS: expected module.function=weight"),
        ({"FLEX_JUDGE_SLEEP_BETWEEN": "3"}, "FLEX_JUDGE_SLEEP_BETWEEN must be 1 or 2, not '3'"),
        ({"FLEX_JUDGE_EXTRA_REWARDS": "json.dumps=inf"}, "FLEX_JUDGE_EXTRA_REWARDS: .*weight of dumps"),
    ],
)
def test_an_error_is_one_line_that_names_the_variable(variables: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError, match=f"^{text}") as error:
        load_reward_environment(URL | variables)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("level", [None, 1, 2])
def test_reads_the_level_of_the_sleep(level: int | None) -> None:
    variables = {"FLEX_JUDGE_SLEEP_BETWEEN": str(level or "")}
    assert load_reward_environment(URL | variables).sleep_between == level


def test_imports_extra_rewards_with_their_weights() -> None:
    import json

    variables = {"FLEX_JUDGE_EXTRA_REWARDS": "json.dumps=0.5, json.loads=-1,"}
    assert load_reward_environment(URL | variables).extra_rewards == ((json.dumps, 0.5), (json.loads, -1.0))


def test_variables_of_other_parts_and_of_kubernetes_are_no_settings() -> None:
    # Kubernetes sets these in each pod of a namespace with the services flex-judge and flex-judge-serve-svc.
    service_links = {
        "FLEX_JUDGE_SERVICE_HOST": "10.1.2.3",
        "FLEX_JUDGE_SERVICE_PORT": "8000",
        "FLEX_JUDGE_SERVICE_PORT_HTTP": "8000",
        "FLEX_JUDGE_PORT": "tcp://10.1.2.3:8000",
        "FLEX_JUDGE_PORT_8000_TCP": "tcp://10.1.2.3:8000",
        "FLEX_JUDGE_PORT_8000_TCP_ADDR": "10.1.2.3",
        "FLEX_JUDGE_SERVE_SVC_SERVICE_HOST": "10.1.2.3",
        "FLEX_JUDGE_SERVE_SVC_PORT_8000_TCP_PROTO": "tcp",
    }
    load_reward_environment(URL | service_links | {"FLEX_JUDGE_CACHE": "/cache", "FLEX_JUDGE_API_KEY": "k" * 20})
    pattern = re.compile(r"FLEX_JUDGE_[A-Z_]+[A-Z]")
    layers = ("judges", "reward", "alignment", "experiments")
    sources = (path for layer in layers for path in (ROOT / layer).rglob("*.py"))
    mentioned = {name for path in sources for name in pattern.findall(path.read_text(encoding="utf-8"))}
    settings = {name_variable(field.name) for field in fields(RewardSettings)}
    assert mentioned <= settings | OTHER_VARIABLES | {URL_VARIABLE, EXTRA_REWARDS_VARIABLE, SLEEP_VARIABLE}


def test_the_docs_list_each_variable() -> None:
    pages = (path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    listed = {name for page in pages for name in re.findall(r"^\| `(FLEX_JUDGE_\w+)`", page, re.MULTILINE)}
    settings = {name_variable(field.name) for field in fields(RewardSettings)}
    assert listed - OTHER_VARIABLES == settings | {URL_VARIABLE, EXTRA_REWARDS_VARIABLE, SLEEP_VARIABLE}


CODE = """
import importlib, pickle
module = importlib.import_module("flex_judge.reward.trl")
reward = getattr(module, "judge_reward")  # as TRL's command line does
assert reward is module.judge_reward
copy = pickle.loads(pickle.dumps(reward))
print(reward.__name__, reward.settings.rubric, copy.settings == reward.settings)
"""


def run_code(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **variables}
    command = [sys.executable, "-c", CODE]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_a_dotted_path_gives_a_reward_function(tmp_path: Path) -> None:
    result = run_code(tmp_path, FLEX_JUDGE_URL="http://127.0.0.1:9", FLEX_JUDGE_NAME="wins", FLEX_JUDGE_RUBRIC="safety")
    assert result.stdout.split() == ["wins", "safety", "True"], result.stderr
    result = run_code(tmp_path)
    assert result.stderr.splitlines()[-1].endswith(
        "FLEX_JUDGE_URL is not set; set it to the judge service, such as http://10.0.0.1:8000"
    )
