"""Many comparisons at a time: what the judge takes, in which order it yields, and how it stops."""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, UsageError
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine

SETTINGS = JudgeSettings(max_think_tokens=100, max_answer_tokens=60)


class Clinic:
    """Comparisons that are numbered, and an engine that takes as many milliseconds for each as its response says."""

    def __init__(self, *milliseconds: int) -> None:
        self.milliseconds = milliseconds
        self.taken = 0
        self.at_once = self.most_at_once = 0
        self.given_up = 0
        self.engine = ScriptedEngine(self._script)
        self.judge = FlexJudge(self.engine, SETTINGS)

    def comparisons(self) -> Iterator[Comparison]:
        """Without end, if the last time is repeated."""
        times = itertools.chain(self.milliseconds, itertools.repeat(self.milliseconds[-1]))
        for number, milliseconds in enumerate(times):
            self.taken += 1
            yield Comparison.of("How long?", f"{milliseconds}", id=str(number))

    async def _script(self, prompt: str, sampling: Sampling) -> str:
        if sampling.stop != ("</think>",):
            return "<answer>7</answer>"
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(int(prompt.rpartition("Answer]\n")[2].partition("<")[0]) / 1000)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        finally:
            self.at_once -= 1
        return "Hm.</think>"


def test_a_stream_yields_judgments_as_they_are_ready() -> None:
    clinic = Clinic(400, 10, 200)
    judgments = clinic.judge.stream(itertools.islice(clinic.comparisons(), 3))
    assert [j.id for j in judgments] == ["1", "2", "0"]


def test_a_stream_takes_from_an_endless_iterator_what_it_has_room_for_and_stops_when_the_caller_does() -> None:
    clinic = Clinic(5)
    stream = clinic.judge.stream(clinic.comparisons())
    seen = []
    for judgment in stream:
        seen.append(judgment.id)
        if len(seen) == 20:
            break
    stream.close()  # type: ignore[attr-defined]
    assert len(set(seen)) == 20
    assert clinic.taken <= 20 + 256
    assert clinic.at_once == 0


def test_a_stream_that_is_forgotten_half_way_gives_its_work_up(recwarn: pytest.WarningsRecorder) -> None:
    clinic = Clinic(1, 60_000)
    for _ in clinic.judge.stream(itertools.islice(clinic.comparisons(), 4)):
        break
    gc.collect()
    assert (clinic.given_up, clinic.at_once) == (3, 0)
    assert not recwarn.list


def test_two_streams_of_one_judge_can_be_read_in_turn() -> None:
    clinic = Clinic(1)
    one, two = (clinic.judge.stream(itertools.islice(clinic.comparisons(), 5)) for _ in range(2))
    assert len(list(zip(one, two, strict=True))) == 5


async def test_an_asynchronous_stream_has_no_more_under_way_than_it_may() -> None:
    clinic = Clinic(3, 1, 2)
    async with aclosing(clinic.judge.astream(clinic.comparisons(), concurrency=3)) as stream:
        async for judgment in stream:
            if int(judgment.id) > 20:
                break
    assert clinic.most_at_once == 3
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_asynchronous_stream_takes_the_next_comparison_only_when_one_is_done() -> None:
    clinic = Clinic(1, 60_000)
    async with aclosing(clinic.judge.astream(clinic.comparisons(), concurrency=2)) as stream:
        assert (await anext(stream)).id == "0"
        assert clinic.taken == 2
    assert clinic.given_up == 1


@pytest.mark.parametrize("concurrency", [0, -1])
async def test_judging_nothing_at_a_time_is_refused_and_not_taken_for_an_empty_list(concurrency: int) -> None:
    with pytest.raises(UsageError, match="concurrency must be at least 1"):
        await anext(aiter(Clinic(1).judge.astream([Comparison.of("q", "a")], concurrency)))


async def test_within_an_event_loop_the_caller_is_told_what_to_use_instead() -> None:
    judge = Clinic(1).judge
    with pytest.raises(UsageError, match="ajudge and astream"):
        judge.judge([Comparison.of("q", "1")])
    with pytest.raises(UsageError, match="ajudge and astream"):
        next(iter(judge.stream([Comparison.of("q", "1")])))


def test_a_comparison_that_cannot_be_judged_is_told_when_the_others_are_judged() -> None:
    clinic = Clinic(1)
    wrong = Comparison.of("q", "a", rubric="nice", id="wrong")
    stream = clinic.judge.stream([wrong, *itertools.islice(clinic.comparisons(), 3)])
    assert sorted(next(stream).id for _ in range(3)) == ["0", "1", "2"]
    with pytest.raises(UsageError, match="'wrong'"):
        next(stream)


def test_an_iterator_that_fails_ends_the_run_and_what_is_under_way() -> None:
    clinic = Clinic(1, 60_000)

    def failing() -> Iterator[Comparison]:
        yield from itertools.islice(clinic.comparisons(), 256)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        clinic.judge.judge(failing())
    assert (clinic.given_up, clinic.at_once) == (255, 0)


def test_control_c_ends_a_run_at_once() -> None:
    interrupted = []

    async def script(_: str, __: Sampling) -> str:
        signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.sleep(60)
        finally:
            interrupted.append(True)
        return ""

    with pytest.raises(KeyboardInterrupt):
        FlexJudge(ScriptedEngine(script), SETTINGS).judge([Comparison.of("q", "a")])
    assert interrupted == [True]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_on_standard_error_alone(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take standard error for a terminal
    clinic = Clinic(1)
    judge = clinic.judge
    assert len(judge.judge(list(itertools.islice(clinic.comparisons(), 3)), progress=True)) == 3
    for judgment in judge.stream(itertools.islice(clinic.comparisons(), 2), progress=True):
        print("judged", judgment.id)
        sys.stdout.flush()
    out, err = capsys.readouterr()
    assert sorted(out.splitlines()) == ["judged 0", "judged 1"]
    assert "3/3" in err
    assert "2/?" in err


def test_without_progress_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    clinic = Clinic(1)
    clinic.judge.judge(itertools.islice(clinic.comparisons(), 3))
    assert capsys.readouterr() == ("", "")


async def test_judgments_of_one_judge_can_be_made_side_by_side() -> None:
    clinic = Clinic(5, 3, 1)
    judgments = await asyncio.gather(*map(clinic.judge.ajudge, itertools.islice(clinic.comparisons(), 3)))
    assert [j.id for j in judgments] == ["0", "1", "2"]
    assert clinic.most_at_once == 3


async def test_a_consumer_that_breaks_out_without_closing_leaves_no_error(recwarn: pytest.WarningsRecorder) -> None:
    clinic = Clinic(1, 60_000)

    async def first(stream: AsyncIterator[object]) -> object:
        async for judgment in stream:
            return judgment
        return None

    assert await first(clinic.judge.astream(clinic.comparisons(), concurrency=2))
    gc.collect()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.01)
    assert (clinic.given_up, clinic.at_once) == (1, 0)
    assert not recwarn.list
