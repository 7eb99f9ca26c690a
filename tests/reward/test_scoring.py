"""Scoring of conversations for trainers without a reward function of TRL's kind, and the settings of their adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from core_only import run_in_core
from fake_service import FakeService, hang, make_client, return_unscored
from PIL import Image

from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Status
from flex_judge.reward import ConversationScorer
from flex_judge.reward.areal import EpisodeJudge
from flex_judge.reward.art import GroupJudge
from flex_judge.reward.skyrl import JudgeGenerator, register_judge_env

PROMPT = [{"role": "user", "content": "What is 2 + 3?"}]
TURNS = [
    {"role": "assistant", "content": "I add."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "It is 5."},
]
URL = "http://127.0.0.1:9"


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


async def test_scores_rows_and_reports_those_that_cannot_be_read(service: FakeService) -> None:
    scorer = ConversationScorer(make_client(service), rubric="correctness")
    rows = [{"prompt": PROMPT, "response": "It is 5."}, {"prompt": 7, "response": "It is 5."}]
    scored, unreadable = await scorer.score_rows(rows)
    assert (scored.value, scored.status) == (8, Status.OK)
    assert (unreadable.value, unreadable.status) == (None, Status.INVALID_INPUT)
    assert service.seen[0].body["rubric"] == "correctness"


async def test_a_failure_is_a_status_of_each_row(service: FakeService) -> None:
    service.always = return_unscored(Status.UNPARSEABLE)
    (unscored,) = ConversationScorer(make_client(service)).score_rows_sync([{"prompt": "Q", "response": "A"}])
    assert (unscored.value, unscored.status) == (None, Status.UNPARSEABLE)
    service.always = hang
    impatient = ConversationScorer(replace(make_client(service), deadline_s=0.2))
    (late,) = await impatient.score_rows([{"prompt": "Q", "response": "A"}])
    assert (late.value, late.status) == (None, Status.TIMEOUT)


async def test_each_turn_is_scored_after_the_conversation_before_it(service: FakeService) -> None:
    rewards = await ConversationScorer(make_client(service)).score_turns({"prompt": PROMPT, "response": TURNS})
    assert [reward.value for reward in rewards] == [6, 8]
    first, second = service.seen[0].body["samples"]
    assert first["prompt"] == PROMPT
    assert second["prompt"] == [*PROMPT, *TURNS[:2]]
    assert second["response"] == "It is 5."


def test_the_last_turn_alone_is_scored(service: FakeService) -> None:
    reward = ConversationScorer(make_client(service)).score_last_turn_sync({"prompt": PROMPT, "response": TURNS})
    assert reward.value == 8
    assert len(service.seen[0].body["samples"]) == 1


async def test_a_response_without_a_message_of_the_policy_has_no_turn(service: FakeService) -> None:
    row = {"prompt": PROMPT, "response": [{"role": "tool", "content": "5"}]}
    (reward,) = await ConversationScorer(make_client(service)).score_turns(row)
    assert (reward.value, reward.status) == (None, Status.INVALID_INPUT)
    assert not service.seen


async def test_a_policy_cannot_name_a_file_in_an_earlier_turn(service: FakeService, tmp_path: Path) -> None:
    """The turns before a turn become its prompt, and prompts may name local files."""
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    look = {"role": "assistant", "content": [{"type": "image", "image": str(tmp_path / "secret.png")}]}
    row = {"prompt": PROMPT, "response": [look, *TURNS]}
    await ConversationScorer(make_client(service)).score_turns(row)
    (sample,) = service.seen[0].body["samples"]
    assert "expected a data URI" in sample["problem"]
    assert not service.uploads


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: ConversationScorer(URL, method="baseline"), "no answers to compare with"),
        (lambda: ConversationScorer(URL, view="half"), "view must be one of"),
        (lambda: GroupJudge(URL, group_size=4), "ART hands over whole groups"),
        (lambda: GroupJudge(URL, independent_weight=float("nan")), "independent_weight"),
        (lambda: JudgeGenerator(None, URL, group_size=4), "SkyRL hands over whole groups"),
        (lambda: JudgeGenerator(None, env_weight=1.0), "give these settings to them"),
        (lambda: register_judge_env("x", rubric="general"), "give these settings to JudgeGenerator"),
        (lambda: register_judge_env("x", URL, normalize="center"), "cannot compare it with others"),
        (lambda: register_judge_env("x", URL, granularity="word"), "granularity must be one of"),
        (lambda: EpisodeJudge(URL, method="knockout", reward="rank"), "group_size is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_do_not_fit_are_errors(create: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create()


async def test_turns_cannot_be_compared(service: FakeService) -> None:
    scorer = ConversationScorer(make_client(service), method="round_robin", reward="win_rate")
    with pytest.raises(UsageError, match="compared"):
        await scorer.score_turns({"prompt": PROMPT, "response": TURNS})


def test_the_adapters_need_the_core_only() -> None:
    run_in_core("import flex_judge.reward.art, flex_judge.reward.skyrl, flex_judge.reward.areal")
