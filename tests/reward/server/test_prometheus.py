"""`GET /metrics`: names, values, formats, and series that no request can multiply."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_lint import find_problems, list_values, parse_scrape
from web import HeldJudge, client, comparisons, get_statuses, samples, wait_until

from flex_judge.judges import Judgment, Status
from flex_judge.reward.server.gateway import Gateway, GatewayConfig
from flex_judge.reward.server.metrics import StartTimes
from flex_judge.reward.server.prometheus import PrometheusMetrics
from flex_judge.reward.serving.dispatch import Dispatcher

MODEL = "a-judge"
KEY = "correct-horse-battery-staple"


def make_service(judge: HeldJudge, max_requests: int = 64, config: GatewayConfig | None = None) -> Gateway:
    """Build a gateway and its dispatcher as the service does, with a judge in this process as its replica."""
    config = config or GatewayConfig()
    metrics = PrometheusMetrics(MODEL, replicas=2, max_pending=config.max_pending)
    dispatcher = Dispatcher(judge.judge.ajudge, max_requests, metrics)
    return Gateway(dispatcher.judge, config, metrics)


async def scrape(http: httpx.AsyncClient) -> dict[str, float]:
    """Scrape the metrics; returns the sum of all series of each name."""
    sums: dict[str, float] = {}
    for (name, _), value in list_values((await http.get("/metrics")).text).items():
        sums[name] = sums.get(name, 0.0) + value
    return sums


async def test_names_follow_the_rules_of_prometheus() -> None:
    async with client(make_service(HeldJudge())) as http:
        await http.post("/v1/judge", json=comparisons("a"))
        answer = await http.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert list(find_problems(answer.text)) == []
    families = parse_scrape(answer.text)
    assert all(name.startswith("flex_judge_") for name in families)
    assert all(s.labels["model"] == MODEL for family in families.values() for s in family.samples)
    assert len(answer.content) < 40_000


@pytest.mark.parametrize(
    "text",
    [
        "# HELP a_total x\n# TYPE a_total gauge\na_total 1\n",
        "# HELP a_ms x\n# TYPE a_ms gauge\na_ms 1\n",
        "# HELP a_minutes x\n# TYPE a_minutes gauge\na_minutes 1\n",
        "# HELP seconds_a x\n# TYPE seconds_a gauge\nseconds_a 1\n",
        "# HELP a_gauge x\n# TYPE a_gauge gauge\na_gauge 1\n",
        '# HELP a x\n# TYPE a gauge\na{job="b"} 1\n',
        "# TYPE a gauge\na 1\n",
    ],
)
def test_the_linter_finds_violations(text: str) -> None:
    assert list(find_problems(text))


async def test_openmetrics_is_sent_to_a_scraper_that_prefers_it() -> None:
    async with client(make_service(HeldJudge())) as http:
        answer = await http.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,*/*;q=0.1"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert {family.name for family in parse_openmetrics(answer.text)} >= {"flex_judge_requests", "flex_judge_pending"}


async def test_needs_the_key() -> None:
    async with client(make_service(HeldJudge(), config=GatewayConfig(api_key=KEY))) as http:
        assert (await http.get("/metrics")).status_code == 401
        assert (await http.get("/metrics", headers={"Authorization": f"Bearer {KEY}"})).status_code == 200


async def test_counts_requests_judgments_tokens_and_invalid_rows() -> None:
    async with client(make_service(HeldJudge())) as http:
        body = comparisons("a", "mumble", "b")
        body["comparisons"].append({"prompt": "Question?", "responses": ["c"], "rubric": "none"})
        assert get_statuses(await http.post("/v1/judge", json=body)) == ["ok", "unparseable", "ok", "invalid_input"]
        values = list_values((await http.get("/metrics")).text)
    judgments = {dict(labels)["status"]: v for (name, labels), v in values.items() if "judgments_total" in name}
    assert judgments == {s.value: 0.0 for s in Status} | {"ok": 2.0, "unparseable": 1.0, "invalid_input": 1.0}
    sums = {name: value for (name, _), value in values.items()}
    request = ("code", "200"), ("model", MODEL), ("route", "/v1/judge")
    assert values["flex_judge_requests_total", request] == 1
    assert values["flex_judge_invalid_rows_total", (("model", MODEL), ("status", "invalid_input"))] == 1
    assert sums["flex_judge_judgment_seconds_count"] == 3
    assert sums["flex_judge_generated_tokens_total"] > 0
    assert (sums["flex_judge_ready"], sums["flex_judge_replicas_wanted"]) == (1, 2)


async def test_shows_queue_running_work_and_their_age() -> None:
    judge = HeldJudge()
    gateway = make_service(judge, max_requests=2)
    async with client(gateway) as http:
        request = asyncio.create_task(http.post("/v1/judge", json=comparisons(*(f"slow {i}" for i in range(5)))))
        await wait_until(lambda: len(judge.started) == 2)
        values = await scrape(http)
        assert values["flex_judge_pending"] == 5
        assert (values["flex_judge_running"], values["flex_judge_queued"]) == (2, 3)
        assert values["flex_judge_oldest_comparison_seconds"] >= values["flex_judge_queue_oldest_seconds"] > 0
        judge.go.set()
        assert get_statuses(await request) == ["ok"] * 5
        values = await scrape(http)
    assert [values[f"flex_judge_{n}"] for n in ("pending", "running", "queued", "queue_oldest_seconds")] == [0] * 4
    assert values["flex_judge_queue_seconds_count"] == 5


async def test_shows_waiting_groups_and_how_they_end() -> None:
    options = {"method": "round_robin", "reward": "win_rate", "group_size": 2}
    async with client(make_service(HeldJudge())) as http:
        first = asyncio.create_task(http.post("/v1/rewards", json=samples("a", **options)))
        for _ in range(200):
            values = await scrape(http)
            if values["flex_judge_waiting_groups"] == 1:
                break
        assert values["flex_judge_waiting_groups"] == 1
        await http.post("/v1/rewards", json=samples("b", **options))
        await first
        await http.post("/v1/rewards", json=samples("c", **options, group_timeout_s=0.01))
        abandoned = {**options, "group_timeout_s": 60}
        await http.post("/v1/rewards", json=samples("d", **abandoned, deadline_s=0.05))
        text = (await http.get("/metrics")).text
    values = {name: v for (name, labels), v in list_values(text).items() if "outcome" not in dict(labels)}
    outcomes = {dict(labels)["outcome"]: v for (_, labels), v in list_values(text).items() if "outcome" in dict(labels)}
    assert outcomes == {"complete": 1, "incomplete": 1}
    assert values["flex_judge_group_wait_seconds_count"] == 2
    assert values["flex_judge_waiting_groups"] == 0


async def test_strangers_cannot_create_series() -> None:
    async with client(make_service(HeldJudge(), config=GatewayConfig(api_key=KEY))) as http:

        async def count_series() -> int:
            answer = await http.get("/metrics", headers={"Authorization": f"Bearer {KEY}"})
            return len(list_values(answer.text))

        def attack(i: int) -> list[Any]:
            key = {"Authorization": f"Bearer {KEY}"}
            wrong = {"Authorization": f"Bearer {KEY}{i}"}
            return [
                http.get(f"/path-{i}", headers=key),
                http.get(f"/path-{i}", headers=wrong),
                http.request(f"METHOD{i}", "/v1/judge", headers=key),
                http.put(f"/v1/media/image/{i:064d}", content=b"x", headers=key),
                http.put(f"/v1/media/kind{i}/{i:064d}", content=b"x", headers=key),
                http.post("/v1/judge", json=comparisons("a", rubric=f"rubric{i}"), headers=key),
                http.post("/v1/judge", json=comparisons("a", model=f"model{i}"), headers=key),
                http.get("/version", headers=key | {"X-Request-ID": f"id{i}", "Flex-Judge-Wire-Version": f"{i + 7}"}),
            ]

        for request in attack(0):
            await request
        await count_series()  # the scrape itself becomes a series of the next one
        before = await count_series()
        for i in range(1, 30):
            for request in attack(i):
                await request
        assert await count_series() == before


async def test_counters_never_fall() -> None:
    async with client(make_service(HeldJudge())) as http:
        before: dict[Any, float] = {}
        for i in range(6):
            await http.post("/v1/judge", json=comparisons(f"a{i}", "mumble"))
            text = (await http.get("/metrics")).text
            values = list_values(text)
            families = parse_scrape(text)
            counters = {s.name for f in families.values() if f.type in ("counter", "histogram") for s in f.samples}
            assert all(values[key] >= value for key, value in before.items() if key[0] in counters)
            assert set(values) >= set(before)
            before = values


async def test_a_scrape_works_while_the_cluster_does_not_answer() -> None:
    async def hang() -> dict[str, Any]:
        await asyncio.sleep(3600)
        return {}

    async def fail() -> dict[str, Any]:
        raise RuntimeError("the controller is dead")

    async def never(_: Any) -> Judgment:
        raise AssertionError

    for health in (hang, fail):
        async with client(Gateway(never, None, PrometheusMetrics(MODEL), health)) as http:
            values = await scrape(http)
            assert (values["flex_judge_ready"], values["flex_judge_replicas"]) == (0, 0)


def test_the_oldest_work_may_end_in_any_order() -> None:
    now = [0.0]
    times, durations = StartTimes(lambda: now[0]), []
    assert times.get_oldest_age_s() == 0
    with times.track(durations.append):
        now[0] = 2.0
        with times.track():
            now[0] = 3.0
            assert (len(times), times.get_oldest_age_s()) == (2, 3.0)
    assert (len(times), durations) == (0, [3.0])


async def test_gauges_follow_a_new_model_and_counters_of_two_models_are_kept() -> None:
    gateway = make_service(HeldJudge())
    metrics = gateway.metrics

    def list_models(name: str, text: str) -> set[str]:
        return {s.labels["model"] for family in parse_scrape(text).values() for s in family.samples if s.name == name}

    async with client(gateway) as http:
        await http.post("/v1/judge", json=comparisons("a"))
        for model, counted in (("b", {MODEL, "b"}), ("c", {"b", "c"}), ("b", {"b", "c"})):
            metrics.set_model(model)
            await http.post("/v1/judge", json=comparisons("a"))
            text = (await http.get("/metrics")).text
            assert list_models("flex_judge_pending_limit", text) == {model}
            assert list_models("flex_judge_ready", text) == {model}
            assert list_models("flex_judge_judgments_total", text) == counted
            assert list_models("flex_judge_judgment_seconds_count", text) == counted
            assert list(find_problems(text)) == []
        values = list_values(text)
    counted_under_b = [
        value
        for (name, labels), value in values.items()
        if name == "flex_judge_judgments_total" and ("model", "b") in labels
    ]
    assert sum(counted_under_b) == 2
