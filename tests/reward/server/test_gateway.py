"""The gateway behind its routes: admission, deadlines, and work of disconnected clients."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from clips import noise, picture
from web import HeldJudge, client, comparisons, get_statuses, samples, wait_until

import flex_judge
from flex_judge.judges import Comparison, Judgment, Status
from flex_judge.judges.errors import EngineLostError, UsageError
from flex_judge.judges.media.opening import make_image
from flex_judge.judges.media.types import Media
from flex_judge.reward.client.encoding import encode_comparison, encode_sample
from flex_judge.reward.server.backpressure import Backpressure
from flex_judge.reward.server.errors import RetryLaterError
from flex_judge.reward.server.gateway import Gateway, GatewayConfig
from flex_judge.reward.server.media_urls import UrlFetcher
from flex_judge.reward.server.metrics import ServiceMetrics
from flex_judge.reward.server.routes import create_app
from flex_judge.reward.server.schemas import RewardsRequest
from flex_judge.reward.types import Reward, RewardSpec, Sample

JSON = {"Content-Type": "application/json"}
KEY = {"Idempotency-Key": "one"}
RED, BLUE = (make_image(picture(noise(28, 28 + 28 * i))) for i in range(2))


class RecordingMetrics(ServiceMetrics):
    """Metrics that keep all recorded values."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.requests: list[tuple[str, int]] = []

    def set_pending(self, count: int) -> None:
        self.counts.append(count)

    def record_request(self, route: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((route, status))


async def test_returns_judgments_in_request_order() -> None:
    async with client(HeldJudge().gateway()) as http:
        answer = await http.post("/v1/judge", json=comparisons("a", "b", "c", "a"))
    judgments = [Judgment.from_json(row) for row in answer.json()["judgments"]]
    assert [j.id for j in judgments] == ["id of a", "id of b", "id of c", "id of a"]
    assert [j.reasoning for j in judgments] == [f"I look at: {x}" for x in "abca"]
    assert all(j.status == Status.OK and j.scores for j in judgments)


async def test_judgments_over_http_equal_direct_judgments() -> None:
    judge = HeldJudge()
    pair = Comparison.of("Which?", "first", "second \ud83d", id="half \udc00")
    row, _ = encode_comparison(pair)
    async with client(judge.gateway()) as http:
        answer = await http.post("/v1/judge", content=json.dumps({"comparisons": [row]}).encode(), headers=JSON)
    assert Judgment.from_json(answer.json()["judgments"][0]) == await judge.judge.ajudge(pair)


async def test_returns_rewards_in_request_order() -> None:
    async with client(HeldJudge().gateway()) as http:
        body = samples("a", "b", "mumble", "c", method="round_robin", reward="win_rate")
        answer = await http.post("/v1/rewards", json=body)
    rewards = [Reward.from_json(row) for row in answer.json()["rewards"]]
    assert [r.status for r in rewards] == [Status.OK, Status.OK, Status.UNPARSEABLE, Status.OK]
    assert [r.value is None for r in rewards] == [False, False, True, False]
    assert all(r.group.size == 4 for r in rewards)


@pytest.mark.parametrize("method", ["round_robin", "circular", "swiss"])
async def test_collects_a_group_from_several_requests(method: str) -> None:
    judge = HeldJudge()
    options = {"method": method, "reward": "win_rate", "group_size": 3}
    async with client(judge.gateway()) as http:
        answers = await asyncio.gather(*(http.post("/v1/rewards", json=samples(x, **options)) for x in "abc"))
    rewards = [Reward.from_json(answer.json()["rewards"][0]) for answer in answers]
    assert sum(r.value or 0 for r in rewards) == pytest.approx(1.5)
    assert all(r.group.size == r.group.wanted == 3 for r in rewards)


async def test_unfinished_items_time_out_and_finished_ones_are_returned() -> None:
    judge = HeldJudge()
    async with client(judge.gateway()) as http:
        answer = await http.post("/v1/judge", json=comparisons("a", "slow", "b") | {"deadline_s": 0.5})
        assert get_statuses(answer) == ["ok", "timeout", "ok"]
        assert "deadline of 0." in answer.json()["judgments"][1]["votes"][0]["detail"]
        assert answer.json()["judgments"][1]["scores"] is None
        answer = await http.post("/v1/rewards", json=samples("a", "slow", "b", deadline_s=0.5))
        assert get_statuses(answer) == ["ok", "timeout", "ok"]
        assert answer.json()["rewards"][1]["value"] is None
        await wait_until(lambda: judge.cancelled["slow"] == 2)


async def test_service_limits_the_deadline_of_a_request() -> None:
    async with client(HeldJudge().gateway(GatewayConfig(deadline_s=0.1))) as http:
        for more in ({"deadline_s": 1e300}, {"deadline_s": None}, {}):
            assert get_statuses(await http.post("/v1/judge", json=comparisons("slow") | more)) == ["timeout"]


async def test_short_service_deadline_does_not_affect_requests_without_groups() -> None:
    async with client(
        HeldJudge().gateway(GatewayConfig(deadline_s=5.0))
    ) as http:  # below the default of group_timeout_s
        assert get_statuses(await http.post("/v1/rewards", json=samples("a"))) == ["ok"]
        body = {"query": ["ab"], "prompts": ["a"], "labels": [""]}
        assert (await http.post("/get_reward", json=body)).json()["rewards"] != [None]


async def test_responds_at_once_to_an_expired_request() -> None:
    async with client(HeldJudge().gateway()) as http:
        assert get_statuses(await http.post("/v1/judge", json=comparisons("slow") | {"deadline_s": 0})) == ["timeout"]


async def test_a_lost_engine_becomes_a_status() -> None:
    async def lost(_: Comparison) -> Judgment:
        raise EngineLostError("the engine died")

    async with client(Gateway(lost)) as http:
        assert get_statuses(await http.post("/v1/judge", json=comparisons("a"))) == ["engine_lost"]
        assert get_statuses(await http.post("/v1/rewards", json=samples("a"))) == ["engine_lost"]


async def test_operator_rubrics_are_named_without_revealing_their_path(tmp_path: Path) -> None:
    file = tmp_path / "brevity.toml"
    file.write_text('criteria = "brevity"\nscale = "1-5"\nresponses = 1\n')
    async with client(HeldJudge().gateway(GatewayConfig(rubrics=(str(file),)))) as http:
        answer = await http.post("/v1/judge", json=comparisons("a", rubric="brevity"))
        assert get_statuses(answer) == ["ok"]
        assert answer.json()["judgments"][0]["provenance"]["rubric"] == "brevity"
        assert get_statuses(await http.post("/v1/rewards", json=samples("a", rubric="brevity"))) == ["ok"]
        refused = await http.post("/v1/rewards", json=samples("a", "b", rubric="brevity", method="round_robin"))
        assert refused.json()["error"] == "rubric: rubric 'brevity' is made for 1 responses at a time, not 2"
        assert str(tmp_path) not in answer.text + refused.text


def test_rejects_invalid_rubric_files_at_start(tmp_path: Path) -> None:
    broken, general = tmp_path / "broken.toml", tmp_path / "general.toml"
    broken.write_text("criteria = 3")
    general.write_text('criteria = "brevity"\nscale = "1-5"\n')
    for file, problem in ((broken, "criteria"), (general, "already"), (tmp_path / "gone.toml", "does not exist")):
        with pytest.raises(UsageError, match=problem):
            HeldJudge().gateway(GatewayConfig(rubrics=(str(file),)))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_pending": 0}, "max_pending must be at least 1"),
        ({"max_pending": 10}, "max_items must be at most max_pending, which is 10"),
        ({"max_bodies_mib": 8}, "max_body_mib must be at most max_bodies_mib"),
        ({"deadline_s": 0.0}, "deadline_s must be above 0"),
        ({"media_hosts": ("https://media.test",)}, "media_hosts"),
        ({"media_hosts": ("media.test:80",)}, "media_hosts"),
        (
            {"openrlhf": RewardSpec(reward="rank", group_size=4, group_timeout_s=170.0)},
            "must be below the 170 s time limit",
        ),
    ],
)
def test_rejects_contradictory_limits(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        GatewayConfig(**options)


async def test_overload_gives_503_with_retry_after_and_recovers() -> None:
    judge, metrics = HeldJudge(), RecordingMetrics()
    gateway = judge.gateway(GatewayConfig(max_pending=10, max_items=10), metrics=metrics)
    async with client(gateway) as http:
        held = asyncio.create_task(http.post("/v1/judge", json=comparisons(*(f"slow {i}" for i in range(6)))))
        await wait_until(lambda: gateway.pending == 6)
        refused = await http.post("/v1/rewards", json=samples(*"abcde"))
        assert refused.status_code == 503
        assert "6 completions are pending and at most 10 may" in refused.json()["error"]
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert gateway.pending == 6
        assert not any(x in judge.started for x in "abcde")
        assert (
            get_statuses(await http.post("/v1/rewards", json=samples(*"abcd"))) == ["ok"] * 4
        )  # these fit within the limit
        judge.go.set()
        assert get_statuses(await held) == ["ok"] * 6
        assert gateway.pending == 0
        assert get_statuses(await http.post("/v1/judge", json=comparisons(*"abcdefghij"))) == ["ok"] * 10
    assert max(metrics.counts) == 10
    assert metrics.counts[-1] == 0
    assert ("/v1/rewards", 503) in metrics.requests
    assert ("/v1/judge", 200) in metrics.requests


async def test_tenfold_overload_gives_only_results_and_refusals() -> None:
    judge = HeldJudge()
    gateway = judge.gateway(GatewayConfig(max_pending=10, max_items=10))
    async with client(gateway) as http:
        sent = [asyncio.create_task(http.post("/v1/judge", json=comparisons(f"slow {i}"))) for i in range(100)]
        await wait_until(lambda: sum(task.done() for task in sent) == 90)
        judge.go.set()
        answers = await asyncio.gather(*sent)
        assert sorted(answer.status_code for answer in answers) == [200] * 10 + [503] * 90
        assert get_statuses(await http.post("/v1/judge", json=comparisons("a"))) == ["ok"]


def test_retry_after_follows_the_completion_rate() -> None:
    now = 1000.0
    backpressure = Backpressure(100, clock=lambda: now)
    backpressure.admit(100)
    with pytest.raises(RetryLaterError) as error:
        backpressure.admit(1)
    assert error.value.retry_after_s == 5  # no rate was measured yet
    for _ in range(10):
        now += 1
        backpressure.release(2)
    backpressure.admit(20)
    with pytest.raises(RetryLaterError) as error:
        backpressure.admit(20)
    assert error.value.retry_after_s == pytest.approx(10, rel=0.2)  # 20 at 2 a second
    with pytest.raises(RetryLaterError) as error:
        backpressure.admit(1)
    assert error.value.retry_after_s == 1
    with pytest.raises(RetryLaterError) as error:
        backpressure.admit(100_000)
    assert error.value.retry_after_s == 60
    now += 100
    with pytest.raises(RetryLaterError) as error:
        backpressure.admit(20)
    assert error.value.retry_after_s == 5


async def test_judges_repeated_requests_with_a_key_once() -> None:
    judge = HeldJudge()
    gateway = judge.gateway()
    async with client(gateway) as http:
        body = comparisons("slow a", "b")
        sent = [asyncio.create_task(http.post("/v1/judge", json=body, headers=KEY)) for _ in range(3)]
        await wait_until(lambda: judge.started["slow a"] and gateway.pending == 1)
        # A client that repeats a request has less time left; the request still is the same.
        sent.append(asyncio.create_task(http.post("/v1/judge", json=body | {"deadline_s": 7.5}, headers=KEY)))
        await asyncio.sleep(0.01)
        judge.go.set()
        answers = [*await asyncio.gather(*sent), await http.post("/v1/judge", json=body, headers=KEY)]
        assert {answer.text for answer in answers} == {answers[0].text}
        assert get_statuses(answers[0]) == ["ok", "ok"]
        assert judge.started == {"slow a": 1, "b": 1}
        await http.post("/v1/judge", json=body, headers={"Idempotency-Key": "two"})
        await http.post("/v1/judge", json=body)
        assert judge.started == {"slow a": 3, "b": 3}


async def test_rejects_another_request_with_the_same_key() -> None:
    judge = HeldJudge()
    async with client(judge.gateway()) as http:
        assert get_statuses(await http.post("/v1/judge", json=comparisons("a"), headers=KEY)) == ["ok"]
        refused = await http.post("/v1/judge", json=comparisons("b"), headers=KEY)
        assert refused.status_code == 422
        assert refused.json()["field"] == "Idempotency-Key"
        assert get_statuses(await http.post("/v1/rewards", json=samples("b"), headers=KEY)) == ["ok"]  # another route
        for key in ("", "x" * 256):
            answer = await http.post("/v1/judge", json=comparisons("b"), headers={"Idempotency-Key": key})
            assert answer.status_code == 422


async def left(task: asyncio.Task[Any]) -> None:
    """Report that the client disconnected."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_keyed_work_continues_after_a_disconnect_and_runs_once() -> None:
    judge = HeldJudge()
    gateway = judge.gateway()
    async with client(gateway) as http:
        sent = asyncio.create_task(http.post("/v1/judge", json=comparisons("slow"), headers=KEY))
        await wait_until(lambda: judge.started["slow"])
        await left(sent)
        judge.go.set()
        await wait_until(lambda: gateway.pending == 0)
        assert get_statuses(await http.post("/v1/judge", json=comparisons("slow"), headers=KEY)) == ["ok"]
    assert judge.started == {"slow": 1}
    assert not judge.cancelled


async def test_work_without_a_key_ends_after_a_disconnect() -> None:
    judge = HeldJudge()
    gateway = judge.gateway()
    async with client(gateway) as http:
        for path, body in (("/v1/judge", comparisons("slow")), ("/v1/rewards", samples("slow"))):
            sent = asyncio.create_task(http.post(path, json=body))
            await wait_until(lambda: gateway.pending == 1)
            await left(sent)
            await wait_until(lambda: gateway.pending == 0)
        await wait_until(lambda: judge.cancelled["slow"] == judge.started["slow"])


async def test_disconnect_message_of_the_server_ends_the_work() -> None:
    judge, metrics = HeldJudge(), RecordingMetrics()
    gateway = judge.gateway(metrics=metrics)
    body = json.dumps(comparisons("slow")).encode()
    gone = asyncio.Event()
    messages = [
        {"type": "http.request", "body": body[:9], "more_body": True},
        {"type": "http.request", "body": body[9:]},
    ]

    async def receive() -> Mapping[str, Any]:
        if messages:
            return messages.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        raise AssertionError("nobody is there to be answered")

    scope = {"type": "http", "method": "POST", "path": "/v1/judge", "query_string": b"", "root_path": ""}
    scope |= {"headers": [(b"content-type", b"application/json")]}
    served = asyncio.create_task(create_app(gateway)(scope, receive, send))  # type: ignore[arg-type]
    await wait_until(lambda: judge.started["slow"])
    gone.set()
    await served
    await wait_until(lambda: gateway.pending == 0)
    assert metrics.requests == [("/v1/judge", 499)]
    await gateway.close()


async def test_retries_failed_work_with_the_same_key() -> None:
    judge = HeldJudge()
    gateway = judge.gateway(GatewayConfig(max_pending=1, max_items=1))
    async with client(gateway) as http:
        held = asyncio.create_task(http.post("/v1/judge", json=comparisons("slow")))
        await wait_until(lambda: gateway.pending == 1)
        assert (await http.post("/v1/judge", json=comparisons("a"), headers=KEY)).status_code == 503
        judge.go.set()
        await held
        assert get_statuses(await http.post("/v1/judge", json=comparisons("a"), headers=KEY)) == ["ok"]


async def test_evicts_answers_after_their_retention() -> None:
    judge = HeldJudge()
    async with client(judge.gateway(GatewayConfig(retain_s=0.05))) as http:
        for _ in range(2):
            await http.post("/v1/judge", json=comparisons("a"), headers=KEY)
        assert judge.started["a"] == 1
        await asyncio.sleep(0.06)
        assert get_statuses(await http.post("/v1/judge", json=comparisons("b"), headers=KEY)) == ["ok"]


async def test_draining_refuses_new_requests_and_answers_accepted_ones() -> None:
    judge = HeldJudge()
    gateway = judge.gateway()
    async with client(gateway) as http:
        accepted = [asyncio.create_task(http.post("/v1/judge", json=comparisons(f"slow {i}"))) for i in range(5)]
        abandoned = asyncio.create_task(http.post("/v1/judge", json=comparisons("slow key"), headers=KEY))
        await wait_until(lambda: gateway.pending == 6)
        await left(abandoned)
        drained = asyncio.create_task(gateway.drain())
        await asyncio.sleep(0.01)
        assert not drained.done()
        health = await http.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        refused = await http.post("/v1/judge", json=comparisons("a"))
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        joined = asyncio.create_task(
            http.post("/v1/judge", json=comparisons("slow key"), headers=KEY)
        )  # joins running work
        await asyncio.sleep(0.01)
        judge.go.set()
        await asyncio.wait_for(drained, 1)
        assert all(get_statuses(answer) == ["ok"] for answer in await asyncio.gather(*accepted, joined))
    assert judge.started["a"] == 0


async def test_draining_an_idle_service_returns_at_once() -> None:
    gateway = HeldJudge().gateway()
    await asyncio.wait_for(gateway.drain(), 0.5)
    await gateway.close()


async def test_closing_cancels_running_work() -> None:
    judge = HeldJudge()
    gateway = judge.gateway()
    async with client(gateway) as http:
        sent = asyncio.create_task(http.post("/v1/judge", json=comparisons("slow"), headers=KEY))
        await wait_until(lambda: judge.started["slow"])
        await gateway.close()
        assert (await sent).status_code == 503
    assert judge.cancelled["slow"] == 1
    assert gateway.pending == 0


async def test_health_reports_the_backend() -> None:
    replicas = 0

    async def health() -> Mapping[str, Any]:
        return {"replicas": replicas, "replicas_wanted": 3}

    async with client(HeldJudge().gateway(GatewayConfig(api_key="key"), health=health)) as http:
        answer = await http.get("/healthz")
        version = {"version": flex_judge.__version__}
        starting = {"status": "starting", "phase": "starting", "pending": 0, "replicas": 0, "replicas_wanted": 3}
        assert (answer.status_code, answer.json()) == (503, starting | version)
        replicas = 2
        answer = await http.get("/healthz")
        partial = {"status": "ok", "phase": "starting_replicas", "pending": 0, "replicas": 2, "replicas_wanted": 3}
        assert (answer.status_code, answer.json()) == (200, partial | version)
        replicas = 3
        assert (await http.get("/healthz")).json()["phase"] == "ready"


async def upload(http: httpx.AsyncClient, *media: Media) -> None:
    for medium in media:
        answer = await http.put(f"/v1/media/{medium.modality}/{medium.digest}", content=medium.data)
        assert (answer.status_code, answer.json()) == (200, {"digest": medium.digest})


async def _record_comparison(received: list[Comparison], comparison: Comparison) -> Judgment:
    received.append(comparison)
    return Judgment(comparison.id, Status.OK, (3.0,), None, "")


async def test_uploaded_media_can_be_referenced_many_times() -> None:
    received: list[Comparison] = []
    gateway = Gateway(partial(_record_comparison, received))
    sample = Sample(Comparison.of("Which?", "-", images=[RED, BLUE]).prompt, "a")
    row, media = encode_sample(sample)
    async with client(gateway) as http:
        body = {"samples": [row, row | {"response": "b"}]}
        missing = await http.post("/v1/rewards", json=body, headers=KEY)
        assert missing.status_code == 409
        assert sorted(missing.json()["missing_media"]) == sorted(media)
        assert not received
        await upload(http, *media.values())
        assert get_statuses(await http.post("/v1/rewards", json=body, headers=KEY)) == ["ok", "ok"]
        for _ in range(3):
            assert get_statuses(await http.post("/v1/rewards", json=body)) == ["ok", "ok"]
    assert gateway.store.uploads == 2
    assert len(received) == 8
    assert all(comparison.prompt == sample.prompt for comparison in received)


async def test_fetches_media_urls_from_allowed_hosts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def network(request: httpx.Request) -> httpx.Response:
        assert request.url.host == "media.test"
        return httpx.Response({"/a": 200, "/b": 500}[request.url.path], stream=httpx.ByteStream(RED.data))

    monkeypatch.setattr(
        "flex_judge.reward.server.gateway.UrlFetcher", partial(UrlFetcher, transport=httpx.MockTransport(network))
    )
    received: list[Comparison] = []
    async with client(
        Gateway(partial(_record_comparison, received), GatewayConfig(media_hosts=("media.test",)))
    ) as http:
        urls = ("//media.test/a", "//media.test/b", "//evil.test/a")
        rows = [comparisons("a", images=[{"url": f"https:{url}"}])["comparisons"][0] for url in urls]
        answer = await http.post("/v1/judge", json={"comparisons": rows})
    assert get_statuses(answer) == ["ok", "timeout", "invalid_input"]  # a server that answers 500 may recover
    details = [judgment["votes"][0]["detail"] for judgment in answer.json()["judgments"][1:]]
    assert details[0] == "comparisons[1].images[0]: media.test answered 500"
    assert details[1].startswith("comparisons[2].images[0]: host 'evil.test' is not on")
    assert [comparison.prompt[0].content[0] for comparison in received] == [RED]


async def test_requests_evicted_media_again() -> None:
    gateway = HeldJudge().gateway(GatewayConfig(media_store_mib=1, max_body_mib=1))
    gateway.store.max_bytes = len(BLUE.data)
    row, _ = encode_comparison(Comparison.of("Which?", "a", images=[RED]))
    async with client(gateway) as http:
        await upload(http, RED, BLUE)
        answer = await http.post("/v1/judge", json={"comparisons": [row]})
        assert (answer.status_code, answer.json()["missing_media"]) == (409, [RED.digest])


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (f"image/{RED.digest[:-1]}0", "body"),
        (f"image/{RED.digest.upper()}", "body"),
        (f"audio/{RED.digest}", "body"),
        (f"molecule/{RED.digest}", "modality"),
        (f"IMAGE/{RED.digest}", "modality"),
        (f"sculpture/{RED.digest}", "modality"),
    ],
)
async def test_rejects_uploads_with_wrong_digest_or_modality(path: str, field: str) -> None:
    gateway = HeldJudge().gateway()
    async with client(gateway) as http:
        answer = await http.put(f"/v1/media/{path}", content=RED.data)
        assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert len(gateway.store) == 0


async def test_the_openapi_page_describes_every_route_and_its_examples_work() -> None:
    async with client(HeldJudge().gateway()) as http:
        page = (await http.get("/openapi.json")).json()
        assert set(page["paths"]) == {
            "/v1/judge",
            "/v1/rewards",
            "/v1/media/{modality}/{digest}",
            "/get_reward",
            "/rm",
            "/v1/adapters",
            "/v1/adapters/{name}",
            "/v1/sleep",
            "/v1/wake",
            "/v1/models",
            "/v1/rubrics",
            "/version",
            "/metrics",
            "/healthz",
        }
        references = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(page)))
        assert references <= set(page["components"]["schemas"])
        for path in ("/v1/judge", "/v1/rewards", "/get_reward", "/rm"):
            example = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
            assert (await http.post(path, json=example)).status_code in (200, 409)  # one example has an image


def test_requests_can_set_every_reward_setting() -> None:
    assert {field.name for field in fields(RewardSpec)} <= set(RewardsRequest.model_fields)
