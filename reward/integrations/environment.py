"""Settings of a reward function in environment variables, for trainers that take nothing but the path of a function."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flex_judge.judges.errors import UsageError, suggest_name
from flex_judge.judges.validation.flat import build_settings, flatten_settings
from flex_judge.reward.client.client import URL_VARIABLE
from flex_judge.reward.integrations.training import check_extra_rewards
from flex_judge.reward.settings import RewardSettings

PREFIX = "FLEX_JUDGE_"
EXTRA_REWARDS_VARIABLE = "FLEX_JUDGE_EXTRA_REWARDS"
SLEEP_VARIABLE = "FLEX_JUDGE_SLEEP_BETWEEN"
_OTHER_NAMES = "CACHE", "CLUSTER", "COMPAT_CACHE", "LAUNCHED_COMMAND", "MAX_BODY_MIB", "RELEASES", "STARTED_BY", "UMASK"
OTHER_VARIABLES = frozenset(f"{PREFIX}{name}" for name in _OTHER_NAMES)
"""Variables that configure other parts of this project."""
_FOREIGN_VARIABLE = re.compile(
    PREFIX + r"(TEST_\w+|(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)\w*)?))"
)
"""Variables of tests, and those that Kubernetes sets in every pod for a service whose name starts with flex-judge."""


@dataclass(frozen=True)
class RewardEnvironment:
    """Reward function that environment variables describe."""

    url: str
    """URL of the judge service."""
    settings: RewardSettings
    """Settings of the reward function."""
    extra_rewards: tuple[tuple[Callable[..., Any], float], ...] = ()
    """Other reward functions and their weights."""
    sleep_between: Literal[1, 2] | None = None
    """Level at which the judge sleeps between the calls; None if it stays awake."""


def name_variable(setting: str) -> str:
    """Return the environment variable of a setting, such as `FLEX_JUDGE_GROUP_SIZE`."""
    return f"{PREFIX}{setting.upper()}"


def load_reward_environment(environ: Mapping[str, str]) -> RewardEnvironment:
    """Read the settings of a reward function from environment variables; empty variables count as missing.

    Args:
        environ: the variables: `FLEX_JUDGE_URL`, `FLEX_JUDGE_EXTRA_REWARDS`, `FLEX_JUDGE_SLEEP_BETWEEN`, and
            `FLEX_JUDGE_` with the name of a field of `RewardSettings`.

    Raises:
        UsageError: the URL is missing, a variable is unknown, or its value is invalid; the message names the variable.

    Example:
        >>> load_reward_environment({"FLEX_JUDGE_URL": "http://10.0.0.1:8000", "FLEX_JUDGE_GROUP_SIZE": "8"}).settings
    """
    variables = {
        name: value.strip()
        for name, value in environ.items()
        if name.startswith(PREFIX)
        and value.strip()
        and name not in OTHER_VARIABLES
        and not _FOREIGN_VARIABLE.fullmatch(name)
    }
    settings = {name_variable(name): (name, setting) for name, setting in flatten_settings(RewardSettings).items()}
    known = {URL_VARIABLE, EXTRA_REWARDS_VARIABLE, SLEEP_VARIABLE, *settings}
    for name in sorted(variables):
        if name not in known:
            raise UsageError(f"{name}: no such setting; {suggest_name(name, known)}")
    if URL_VARIABLE not in variables:
        raise UsageError(f"{URL_VARIABLE} is not set; set it to the judge service, such as http://10.0.0.1:8000")
    url = variables[URL_VARIABLE]
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{URL_VARIABLE} must begin with http:// or https://, not {url!r}")
    values = {
        field: setting.check_value(variables[name], name, parse=True)
        for name, (field, setting) in settings.items()
        if name in variables
    }
    extra_rewards = _load_extra_rewards(variables.get(EXTRA_REWARDS_VARIABLE, ""))
    levels: dict[str | None, Literal[1, 2] | None] = {None: None, "1": 1, "2": 2}
    level = variables.get(SLEEP_VARIABLE)
    if level not in levels:
        raise UsageError(f"{SLEEP_VARIABLE} must be 1 or 2, not {level!r}")
    reward_settings = build_settings(RewardSettings, values, name_variable)
    return RewardEnvironment(url, reward_settings, extra_rewards, levels[level])


def _load_extra_rewards(text: str) -> tuple[tuple[Callable[..., Any], float], ...]:
    """Import the functions of a list such as `trl.rewards.think_format_reward=0.5,my_rewards.is_short=1`."""
    pairs = []
    for item in filter(None, map(str.strip, text.split(","))):
        path, _, weight = item.partition("=")
        module, _, name = path.strip().rpartition(".")
        try:
            pairs.append((getattr(importlib.import_module(module), name), float(weight)))
        except (ImportError, AttributeError, ValueError) as e:
            raise UsageError(
                f"{EXTRA_REWARDS_VARIABLE}: expected module.function=weight, such as "
                f"trl.rewards.think_format_reward=0.5, got {item!r} ({e})"
            ) from e
    try:
        return tuple(check_extra_rewards(pairs))
    except UsageError as e:
        raise UsageError(f"{EXTRA_REWARDS_VARIABLE}: {e}") from e
