"""One name per setting: dashes in flags, underscores elsewhere, the same words in every place."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from repository import DOCS

from flex_judge.experiments.cli import COMMANDS, _build_parser, spell_with_dashes
from flex_judge.experiments.commands.serve.config import ServeRun
from flex_judge.experiments.common.flags import load_config
from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.flat import flatten_settings
from flex_judge.reward.serving.config import FLAG_NAMES, ServiceConfig

OF_SERVE_ONLY = {"address", "start_timeout_s", "host", "port", "every_node"}
"""Settings of `flex-judge serve` that Ray's own file has elsewhere: the cluster, and `http_options`."""


def list_flags(parser: argparse.ArgumentParser) -> set[str]:
    """List the flags of a parser and its subcommands."""
    flags = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                flags |= list_flags(subparser)
    return flags


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_are_spelled_with_dashes(command: str) -> None:
    flags = list_flags(_build_parser(command))
    assert flags
    assert not [flag for flag in flags if not re.fullmatch(r"-h|--[a-z][a-z0-9]*(-[a-z0-9]+)*", flag)]


def test_every_flag_of_serve_is_a_setting_of_a_deployment() -> None:
    flags = set(flatten_settings(ServeRun))
    settings = set(flatten_settings(ServiceConfig))
    assert {FLAG_NAMES.get(name, name) for name in flags - OF_SERVE_ONLY} <= settings


def test_settings_are_snake_case() -> None:
    for config in (ServeRun, ServiceConfig):
        assert not [name for name in flatten_settings(config) if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)]


@pytest.mark.parametrize("flag", ["--max-pending", "--max_pending"])
def test_flags_accept_the_spelling_of_files(flag: str) -> None:
    for arguments in ([flag, "2000"], [f"{flag}=2000"]):
        options = _build_parser("serve").parse_args(spell_with_dashes(["serve", *arguments]))
        config = load_config(ServeRun, options)
        assert config.service.gateway is not None
        assert config.service.gateway.max_pending == 2000


@pytest.mark.parametrize("name", ["max-pending", "max_pending"])
def test_files_and_deployments_accept_the_spelling_of_flags(name: str, tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text(f"{name}: 2000\n")
    options = _build_parser("serve").parse_args(["serve", "--config", str(tmp_path / "serve.yaml")])
    configs = [load_config(ServeRun, options).service, ServiceConfig.from_args({name: 2000})]
    assert [config.gateway.max_pending for config in configs if config.gateway is not None] == [2000, 2000]


@pytest.mark.parametrize("name", ["rubrics", "allow_rubric", "allow-rubric"])
def test_a_deployment_accepts_the_name_of_the_flag(name: str) -> None:
    config = ServiceConfig.from_args({name: ["a.toml"]})
    assert config.gateway is not None
    assert config.gateway.rubrics == ("a.toml",)


@pytest.mark.parametrize("args", [{"votes": 1, "num-waits": 0, "num_waits": 0}, {"rubrics": ["a"], "allow-rubric": []}])
def test_one_setting_under_two_names_is_refused(args: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="is given twice, also under another name; remove one"):
        ServiceConfig.from_args(args)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["judge", "--think_budget=a_b=c_d"], ["judge", "--think-budget=a_b=c_d"]),
        (["--out_file", "a_b", "--", "--not_a_flag"], ["--out-file", "a_b", "--", "--not_a_flag"]),
        (["--A_b", "-x_y", "--1_2", "---a_b"], ["--A_b", "-x_y", "--1_2", "---a_b"]),
        (["a_b", "--text", "--x y_z"], ["a_b", "--text", "--x y_z"]),
    ],
)
def test_values_are_not_changed(arguments: list[str], expected: list[str]) -> None:
    assert spell_with_dashes(arguments) == expected


def test_the_page_names_settings_that_exist() -> None:
    page = (DOCS / "operations" / "deployment.md").read_text()
    table = page.partition("## Names of settings")[2]
    known = {name for command in COMMANDS for name in list_flags(_build_parser(command))}
    known |= {"--judge", "--accelerate-config", "--accelerate_config", "--learning_rate"}
    assert set(re.findall(r"--[a-z][\w-]+", table)) <= known
