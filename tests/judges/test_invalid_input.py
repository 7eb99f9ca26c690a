"""Comparisons that cannot be judged: a status with the part at fault, beside the judgments of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from scripts import score_five

from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, Judgment, Media, Message, Status, UsageError
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import LedgerError, RenderError, is_input_error
from flex_judge.judges.media.opening import make_image
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.profiles import CHAT, PROFILES, Profile

GOOD, LONG = Image.new("RGB", (64, 64)), Image.new("RGB", (5000, 1))


def make_judge(profile: Profile = PROFILES["flex-vl"], **settings: Any) -> FlexJudge:
    return FlexJudge(ScriptedEngine(score_five, profile=profile), JudgeSettings(max_think_tokens=64, **settings))


def statuses(judgments: Sequence[Judgment]) -> list[str]:
    return [str(judgment.status) for judgment in judgments]


def test_an_impossible_image_costs_its_own_comparison_only() -> None:
    judge = make_judge()
    comparisons = [Comparison.of("q", "a", images=[image], id=str(i)) for i, image in enumerate([GOOD, LONG, GOOD])]
    judgments = judge.judge(comparisons)
    assert statuses(judgments) == ["ok", "invalid_input", "ok"]
    failed = judgments[1]
    assert failed.id == "1"
    assert failed.scores is None
    assert failed.status.is_final
    assert failed.detail.startswith("images[0]: ")
    assert "5000" in failed.detail
    assert failed.model == judge.engine.model_id
    assert failed.provenance["key"] == judge.compute_key(comparisons[1])
    assert failed.response_problems == {}
    assert Judgment.from_json(failed.to_json()) == failed
    assert sorted(j.id for j in judge.stream(comparisons)) == ["0", "1", "2"]


def test_unsupported_modalities_and_damaged_files_are_invalid_input() -> None:
    png = make_image(GOOD)
    cut = replace(png, data=png.data[:60], name="cut.png")  # not read by `make_image`, which would find the damage
    assert "the model takes no image" in make_judge(CHAT).judge([Comparison.of("q", "a", images=[GOOD])])[0].detail
    (judgment,) = make_judge().judge([Comparison.of([{"role": "user", "content": [cut, "q"]}], "a")])
    assert judgment.status == Status.INVALID_INPUT
    assert judgment.detail.startswith("prompt: cut.png: cannot be read as image")
    molecule = Media(Modality.MOLECULE, b"C1CC", "molecule")
    assert make_judge().judge([Comparison.of([{"role": "user", "content": [molecule]}], "a")])[0].status == Status.OK


@pytest.mark.parametrize("order", ["as_given", "both"])
def test_names_the_responses_at_fault(order: str) -> None:
    judge = make_judge(order=order)
    good, long = [{"type": "image", "image": GOOD}], [{"type": "image", "image": LONG}]
    cases: list[tuple[Comparison, set[int]]] = [
        (Comparison.of("q", good, long), {1}),
        (Comparison.of("q", long, "b"), {0}),
        (Comparison.of("q", long, long), {0, 1}),
        (Comparison.of("q", "a", "b", images=[LONG]), set()),
        (Comparison.of("q", "a", long, images=[LONG]), set()),  # no other response would help
    ]
    judgments = judge.judge([comparison for comparison, _ in cases])
    assert set(statuses(judgments)) == {"invalid_input"}
    assert [set(judgment.response_problems) for judgment in judgments] == [at_fault for _, at_fault in cases]
    assert judgments[0].response_problems[1] == judgments[0].detail
    assert judgments[2].detail == "; ".join(judgments[2].response_problems.values())
    assert judgments[0].detail.startswith("responses[1][0].image: ")
    assert judgments[3].detail.startswith("images[0]: ")
    assert judge.judge([Comparison.of("q", good, "b")])[0].status == Status.OK


def test_a_role_with_a_control_token_is_invalid_input_and_a_useless_template_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = make_judge()
    render = judge.renderer.render

    def reject(turns: Any, *rest: Any) -> Any:
        if any("odd" in getattr(piece, "text", "") for turn in turns for piece in turn.pieces):
            raise RenderError("the chat template rejects this chat")
        return render(turns, *rest)

    monkeypatch.setattr(judge.renderer, "render", reject)
    judgments = judge.judge([Comparison.of("q", text) for text in ("plain", "odd", "plain")])
    assert statuses(judgments) == ["ok", "invalid_input", "ok"]
    assert judgments[1].detail == "responses[0]: the chat template rejects this chat"

    def reject_all(*_: Any) -> Any:
        raise RenderError("the chat template rejects this chat")

    monkeypatch.setattr(judge.renderer, "render", reject_all)
    with pytest.raises(RenderError, match="comparison '7': the chat template rejects"):
        judge.judge([Comparison.of("q", "a", id="7")])


@pytest.mark.parametrize(
    ("error", "text"), [(MemoryError(), "does not fit into memory"), (RecursionError(), "is nested too deeply")]
)
def test_exhausted_memory_and_stack_concern_the_row(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = make_judge()
    render = judge.renderer.render

    def fail_on_huge(turns: Any, *rest: Any) -> Any:
        if any("huge" in getattr(piece, "text", "") for turn in turns for piece in turn.pieces):
            raise error
        return render(turns, *rest)

    monkeypatch.setattr(judge.renderer, "render", fail_on_huge)
    judgments = judge.judge([Comparison.of("huge", "a"), Comparison.of("q", "a")])
    assert statuses(judgments) == ["invalid_input", "ok"]
    assert judgments[0].detail == f"prompt: {text}"


def test_an_engine_that_refuses_one_request_costs_that_comparison() -> None:
    async def refuse(prompt: str, sampling: Sampling) -> str:
        if "long" in prompt:
            raise UsageError("the engine takes no such prompt")
        return score_five(prompt, sampling)

    judge = FlexJudge(ScriptedEngine(refuse), JudgeSettings(max_think_tokens=64))
    judgments = judge.judge([Comparison.of("q", "long"), Comparison.of("q", "a")])
    assert statuses(judgments) == ["invalid_input", "ok"]
    assert judgments[0].detail == "the engine takes no such prompt"


def test_errors_of_the_setup_still_raise() -> None:
    async def fail(_: str, __: Sampling) -> str:
        raise LedgerError("ledger.sqlite: disk full")

    with pytest.raises(LedgerError, match="disk full"):
        FlexJudge(ScriptedEngine(fail), JudgeSettings(max_think_tokens=64)).judge([Comparison.of("q", "a")])
    assert not is_input_error(LedgerError("x"))
    assert not is_input_error(OSError("x"))


async def test_a_broken_row_does_not_wait_for_a_slot_of_the_engine() -> None:
    judge = make_judge()
    judge.engine.max_batch = 1
    hold = asyncio.Event()

    async def wait(prompt: str, sampling: Sampling) -> str:
        await hold.wait()
        return score_five(prompt, sampling)

    judge.engine.script = wait  # type: ignore[attr-defined]
    running = asyncio.create_task(judge.ajudge(Comparison.of("q", "a")))
    await asyncio.sleep(0)
    broken = await asyncio.wait_for(judge.ajudge(Comparison.of("q", "a", images=[LONG])), 10)
    assert broken.status == Status.INVALID_INPUT
    hold.set()
    assert (await running).status == Status.OK


def test_origin_is_no_part_of_the_content() -> None:
    medium = make_image(GOOD)
    named = medium.with_origin("images[3]")
    assert (named, named.digest, hash(named)) == (medium, medium.digest, hash(medium))
    assert (
        Comparison("", (Message("user", (named,)),), ("a",)).digest
        == Comparison("", (Message("user", (medium,)),), ("a",)).digest
    )
