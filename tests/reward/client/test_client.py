"""Client of a judge service, against a real HTTP server that misbehaves."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fake_service import FakeService, disconnect, hang, make_client, make_sample, refuse, return_no_results
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from flex_judge.judges import Comparison
from flex_judge.judges.errors import AccessError, RequestTooLargeError, ServiceTimeoutError, UsageError
from flex_judge.judges.io.http import Backoff
from flex_judge.judges.judgments import Status
from flex_judge.reward.client import JudgeClient
from flex_judge.reward.client.encoding import split_into_batches
from flex_judge.reward.types import RewardSpec

WIN_RATE = RewardSpec(method="round_robin", reward="win_rate", group_size=4, group_timeout_s=1)
HEAVY = {"torch", "ray", "transformers", "trl", "vllm", "datasets", "scipy", "fastapi"}


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


def picture(size: int, colour: str = "red") -> Comparison:
    from PIL import Image

    return Comparison.of("What is it?", "a", images=[Image.new("RGB", (size, size), colour)])


def test_returns_judgments_and_rewards_in_order(service: FakeService) -> None:
    client = make_client(service)
    texts = ["a" * (7 * i % 11) for i in range(11)]
    judgments = client.judge_sync([Comparison.of("Question?", text, id=str(i)) for i, text in enumerate(texts)])
    assert [j.scores for j in judgments] == [(float(len(text)),) for text in texts]
    assert [j.id for j in judgments] == [str(i) for i in range(11)]
    rewards = client.rewards_sync([make_sample("Question?", text) for text in texts])
    assert [r.value for r in rewards] == [float(len(text)) for text in texts]
    assert rewards[0].reasoning == "I counted."


def test_sends_no_request_for_an_empty_list(service: FakeService) -> None:
    assert make_client(service).rewards_sync([]) == []
    assert not service.seen


def test_splits_many_completions_but_not_a_prompt(service: FakeService) -> None:
    samples = [make_sample(f"Question {i % 7}?", f"answer {i}") for i in range(42)]
    make_client(service, chunk=13).rewards_sync(samples)
    prompts = [[row["prompt"][0]["content"] for row in request.body["samples"]] for request in service.seen]
    assert sorted(len(request) for request in prompts) == [6, 12, 12, 12]
    assert sum(len(set(request)) for request in prompts) == 7


def test_limits_concurrent_requests(service: FakeService) -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.02)
        return await service.answer(request)

    service.always = slow
    make_client(service, chunk=1, concurrency=3).rewards_sync([make_sample(f"{i}?", "answer") for i in range(12)])
    assert len(service.seen) == 12
    assert service.max_concurrent == 3


def test_sends_incomplete_groups_first_and_without_waiting(service: FakeService) -> None:
    complete = [make_sample(f"whole {i % 3}?", f"answer {i}") for i in range(12)]
    parts = [make_sample("first part?", "a"), make_sample("last part?", "b"), make_sample("last part?", "c")]

    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.05)
        return await service.answer(request)

    service.always = slow
    make_client(service, chunk=4, concurrency=1).rewards_sync([parts[0], *complete, *parts[1:]], WIN_RATE)
    sizes = [len(request.body["samples"]) for request in service.seen]
    assert sorted(sizes[:3]) == [1, 2, 4]  # both incomplete groups, and the one complete group with a free slot
    assert sizes[3:] == [4, 4]


def test_rejects_a_group_timeout_above_the_deadline(service: FakeService) -> None:
    spec = replace(WIN_RATE, group_timeout_s=60)
    with pytest.raises(UsageError, match="group_timeout_s of 60 s must be below the deadline_s of 30 s"):
        make_client(service).rewards_sync([make_sample("Question?", "four")], spec)
    assert make_client(service).rewards_sync([make_sample("Question?", "four")], replace(spec, group_size=None))


def test_rewards_without_groups_do_not_wait() -> None:
    assert [b.indices for b in split_into_batches(["a", "a", "b"], 64)] == [(0, 1, 2)]
    assert [(b.indices, b.waits) for b in split_into_batches(["a", "b", "a"], 64, 2)] == [((1,), True), ((0, 2), False)]


@given(st.lists(st.sampled_from("abcdef"), max_size=40), st.integers(1, 10), st.none() | st.integers(1, 5))
def test_sends_every_item_once_and_never_splits_a_group(groups: list[str], max_items: int, size: int | None) -> None:
    batches = split_into_batches(groups, max_items, size)
    assert sorted(i for batch in batches for i in batch.indices) == list(range(len(groups)))
    assert sum(len({groups[i] for i in batch.indices}) for batch in batches) == len(set(groups))
    assert all(len(batch.indices) <= max_items or len({groups[i] for i in batch.indices}) == 1 for batch in batches)
    assert [batch.waits for batch in batches] == sorted((batch.waits for batch in batches), reverse=True)


def test_retries_after_the_retry_after_time(service: FakeService) -> None:
    service.script.append(refuse(503, "full", Retry_After="1"))
    started = time.monotonic()
    assert make_client(service).rewards_sync([make_sample("Question?", "four")])[0].value == 4
    assert time.monotonic() - started >= 1
    assert len({request.key for request in service.seen}) == 1
    assert len(service.seen) == 2


def test_repeats_a_lost_response_with_the_same_key(service: FakeService) -> None:
    service.script.extend([disconnect, refuse(500), refuse(502), refuse(504)])
    assert make_client(service).rewards_sync([make_sample("Question?", "four")])[0].value == 4
    assert len(service.seen) == 5
    assert len({request.key for request in service.seen}) == 1
    make_client(service).rewards_sync([make_sample("Question?", "four")])
    assert service.seen[5].key != service.seen[0].key


def test_repeats_a_request_after_a_silent_attempt(service: FakeService) -> None:
    service.script.append(hang)
    assert make_client(service, attempt_s=0.1).rewards_sync([make_sample("Question?", "four")])[0].value == 4
    assert len({request.key for request in service.seen}) == 1


def test_sends_a_deadline_below_the_remaining_time(service: FakeService) -> None:
    service.script.append(refuse(503, "full", Retry_After="1"))
    make_client(service, deadline_s=30).rewards_sync([make_sample("Question?", "four")])
    first, second = (request.body["deadline_s"] for request in service.seen)
    assert first <= 27
    assert second <= first - 0.9


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (401, AccessError, "wrong key; pass the key as api_key or set FLEX_JUDGE_API_KEY"),
        (413, RequestTooLargeError, "wrong key; send fewer items per request"),
        (422, UsageError, "^wrong key$"),
        (405, UsageError, "is this the address of a judge service?"),
    ],
)
def test_raises_permanent_errors_without_retries(
    service: FakeService, status: int, kind: type[Exception], text: str
) -> None:
    service.script.append(refuse(status, "wrong key"))
    with pytest.raises(kind, match=text):
        make_client(service).rewards_sync([make_sample("Question?", "four")])
    assert len(service.seen) == 1


def test_reports_another_kind_of_server(service: FakeService) -> None:
    with pytest.raises(UsageError, match="answered 404 to POST /v1/rewards: Not Found; is this the address"):
        replace(make_client(service), url=f"{service.url}/elsewhere/").rewards_sync([make_sample("Question?", "four")])
    service.script.append(return_no_results)
    with pytest.raises(UsageError, match="expected 1 rewards from /v1/rewards"):
        make_client(service).rewards_sync([make_sample("Question?", "four")])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            '{"rewards": [{"status": "ok", "value": NaN, "group": {"size": 1, "wanted": null}, "usage": {}}]}',
            "value: exp",
        ),
        (
            '{"rewards": [{"status": "ok", "value": "5", "group": {"size": 1, "wanted": null}, "usage": {}}]}',
            "value: exp",
        ),
        ('{"rewards": [{"status": "ok", "value": 5}]}', "expected the fields of this version"),
        ('{"rewards": [{"status": "splendid", "score": 5}]}', "expected the fields of this version"),
        ('{"rewards": [5]}', "expected 1 rewards from /v1/rewards"),
    ],
)
def test_rejects_rewards_that_are_not_finite_numbers(service: FakeService, body: str, problem: str) -> None:
    async def send(request: Request) -> Response:
        return Response(body, media_type="application/json")

    service.script.append(send)
    with pytest.raises(UsageError, match=f"{service.url}: .*{problem}.*client and service must have the same version"):
        make_client(service).rewards_sync([make_sample("Question?", "four")])


def test_sends_the_key_with_every_request(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEX_JUDGE_API_KEY", "from-the-environment\n")
    make_client(service).rewards_sync([make_sample("Question?", "four")])
    replace(make_client(service), api_key="given").rewards_sync([make_sample("Question?", "four")])
    keys = [request.headers["authorization"] for request in service.seen]
    assert keys == ["Bearer from-the-environment", "Bearer given"]
    assert "given" not in repr(JudgeClient(service.url, "given"))


def test_uploads_an_image_once(service: FakeService) -> None:
    client = make_client(service, chunk=1)
    comparisons = [picture(8), replace(picture(8), rubric="correctness"), picture(9)]
    client.judge_sync(comparisons)  # two comparisons with the same image run concurrently
    client.judge_sync(comparisons)
    assert len(service.uploads) == 2
    assert len(service.seen) == 6


def test_uploads_a_lost_image_again(service: FakeService) -> None:
    client = make_client(service)
    client.judge_sync([picture(8), picture(9)])
    lost = service.uploads[0]
    service.media.discard(lost)
    assert client.judge_sync([picture(8), picture(9)])[0].status == Status.OK
    assert service.uploads[2:] == [lost]
    assert service.seen[1].key == service.seen[2].key


def test_gives_up_on_a_service_that_keeps_losing_images(service: FakeService) -> None:
    async def forgetful(request: Request) -> Response:
        service.media.clear()
        return await service.answer(request)

    service.always = forgetful
    with pytest.raises(ServiceTimeoutError, match="409: unknown media"):
        make_client(service, deadline_s=1).judge_sync([picture(8)])


async def test_works_with_and_without_an_event_loop(service: FakeService) -> None:
    client = make_client(service)
    samples = [make_sample("Question?", "four")]
    assert (await client.rewards(samples))[0].value == 4
    assert client.rewards_sync(samples)[0].value == 4
    assert await asyncio.to_thread(lambda: asyncio.run(client.rewards(samples))[0].value) == 4
    assert await client.health() == client.health_sync() == {"status": "ok"}
    client.close()
    assert client.rewards_sync(samples)[0].value == 4


async def test_cancelling_a_call_ends_its_request(service: FakeService) -> None:
    service.always = hang
    client = make_client(service)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.rewards([make_sample("Question?", "four")]), 0.2)
    service.always = None
    assert (await client.rewards([make_sample("Question?", "four")]))[0].value == 4


def test_pickles_while_connected(service: FakeService) -> None:
    client = make_client(service)
    client.rewards_sync([make_sample("Question?", "four")])
    copy = pickle.loads(pickle.dumps(client))
    assert copy == client
    assert copy.rewards_sync([make_sample("Question?", "four")])[0].value == 4


def test_a_forked_process_opens_its_own_connections(service: FakeService) -> None:
    client = make_client(service)
    client.rewards_sync([make_sample("Question?", "four")])
    child = os.fork()
    if not child:
        os._exit(int(client.rewards_sync([make_sample("Question?", "four")])[0].value or 0))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
    assert client.rewards_sync([make_sample("Question?", "four")])[0].value == 4


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"url": "10.0.0.1:8000"}, "url must begin with http"),
        ({"deadline_s": 0}, "deadline_s must be seconds above 0"),
        ({"attempt_s": float("nan")}, "attempt_s must be seconds above 0"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"api_key": "from a file\n"}, "api_key must be one or more ASCII characters"),
    ],
)
def test_rejects_invalid_settings(settings: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        replace(JudgeClient("http://127.0.0.1:1"), **settings)


@given(st.floats(0.001, 10), st.floats(0.001, 100), st.floats(0, 60))
def test_backoff_doubles_up_to_a_bound_and_respects_retry_after(
    first: float, longest: float, retry_after_s: float
) -> None:
    backoff = Backoff(first, longest)
    for tries in range(40):
        assert retry_after_s <= backoff.next_delay(retry_after_s) <= retry_after_s + min(longest, first * 2**tries)


def test_client_loads_no_model_library(service: FakeService) -> None:
    code = (
        "import sys\n"
        "from flex_judge.reward.trl import JudgeReward\n"
        f"print(JudgeReward({service.url!r})(['Question?'] * 2, ['four', 'fives']))\n"
        f"print('HEAVY', *({HEAVY!r} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["[4.0, 5.0]", "HEAVY"]
