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


def test_stream_yields_judgments_as_they_complete() -> None:
    clinic = Clinic(400, 10, 200)
    judgments = clinic.judge.stream(itertools.islice(clinic.comparisons(), 3))
    assert [j.id for j in judgments] == ["1", "2", "0"]


def test_stream_reads_an_endless_iterator_only_as_far_as_needed() -> None:
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


def test_abandoned_stream_cancels_its_work(recwarn: pytest.WarningsRecorder) -> None:
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


async def test_async_stream_respects_its_concurrency_limit() -> None:
    clinic = Clinic(3, 1, 2)
    async with aclosing(clinic.judge.astream(clinic.comparisons(), concurrency=3)) as stream:
        async for judgment in stream:
            if int(judgment.id) > 20:
                break
    assert clinic.most_at_once == 3
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_async_stream_takes_the_next_comparison_only_when_one_is_done() -> None:
    clinic = Clinic(1, 60_000)
    async with aclosing(clinic.judge.astream(clinic.comparisons(), concurrency=2)) as stream:
        assert (await anext(stream)).id == "0"
        assert clinic.taken == 2
    assert clinic.given_up == 1


@pytest.mark.parametrize("concurrency", [0, -1])
async def test_zero_concurrency_is_a_usage_error(concurrency: int) -> None:
    with pytest.raises(UsageError, match="concurrency must be at least 1"):
        await anext(aiter(Clinic(1).judge.astream([Comparison.of("q", "a")], concurrency)))


async def test_sync_methods_inside_an_event_loop_name_the_async_ones() -> None:
    judge = Clinic(1).judge
    with pytest.raises(UsageError, match="ajudge and astream"):
        judge.judge([Comparison.of("q", "1")])
    with pytest.raises(UsageError, match="ajudge and astream"):
        next(iter(judge.stream([Comparison.of("q", "1")])))


def test_usage_error_is_raised_after_the_other_comparisons() -> None:
    clinic = Clinic(1)
    wrong = Comparison.of("q", "a", rubric="nice", id="wrong")
    stream = clinic.judge.stream([wrong, *itertools.islice(clinic.comparisons(), 3)])
    assert sorted(next(stream).id for _ in range(3)) == ["0", "1", "2"]
    with pytest.raises(UsageError, match="'wrong'"):
        next(stream)


def test_failing_iterator_cancels_running_work() -> None:
    clinic = Clinic(1, 60_000)

    def failing() -> Iterator[Comparison]:
        yield from itertools.islice(clinic.comparisons(), 256)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        clinic.judge.judge(failing())
    assert (clinic.given_up, clinic.at_once) == (255, 0)


def test_keyboard_interrupt_ends_a_run_at_once() -> None:
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
def test_progress_goes_to_standard_error_only(
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


async def test_one_judge_serves_concurrent_calls() -> None:
    clinic = Clinic(5, 3, 1)
    judgments = await asyncio.gather(*map(clinic.judge.ajudge, itertools.islice(clinic.comparisons(), 3)))
    assert [j.id for j in judgments] == ["0", "1", "2"]
    assert clinic.most_at_once == 3


async def test_consumer_that_breaks_out_without_closing_leaves_no_error(recwarn: pytest.WarningsRecorder) -> None:
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
