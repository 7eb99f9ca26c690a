"""Rows of a request that cannot be judged: a result with the field and the reason; the others are judged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from clips import encode_uri, picture
from PIL import Image
from web import client, get_results

from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, Judgment, Status, UsageError
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import LedgerError
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.reward.server.gateway import Gateway, GatewayConfig
from flex_judge.reward.server.metrics import ServiceMetrics
from flex_judge.reward.types import RewardSpec

GOOD, LONG = (encode_uri(picture(Image.new("RGB", size)), "image/png") for size in ((64, 64), (5000, 1)))
DEEP = encode_uri(picture(Image.new("F", (8, 8)), "TIFF"), "image/png")
NESTED: Any = "x"
for _ in range(60):
    NESTED = [NESTED]


class InvalidRowMetrics(ServiceMetrics):
    """Metrics that keep the statuses of rows that no judge saw."""

    def __init__(self) -> None:
        self.statuses: list[str] = []

    def record_invalid_row(self, status: Status) -> None:
        self.statuses.append(str(status))


def reply(prompt: str, sampling: Sampling) -> str:
    answers = prompt.rpartition("user\n")[2].count("'s Answer]")
    return "Hm.</think>" if sampling.stop else "".join(f"<answer>{5 - i}</answer>" for i in range(answers))


def make_judge() -> FlexJudge:
    engine = ScriptedEngine(reply, profile=PROFILES["flex-vl"])
    return FlexJudge(engine, JudgeSettings(max_think_tokens=64, forced_answer=False))


@pytest.fixture
def metrics() -> InvalidRowMetrics:
    return InvalidRowMetrics()


@pytest.fixture
async def web(metrics: InvalidRowMetrics) -> AsyncIterator[httpx.AsyncClient]:
    async with client(Gateway(make_judge().ajudge, GatewayConfig(max_media=3), metrics)) as http:
        yield http


def get_detail(result: dict[str, Any]) -> str:
    return str(result["votes"][0]["detail"] if "votes" in result else result["detail"])


def make_parts(image: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image", "image": image}]}]


ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown field", {"promt": "q"}, "promt: unknown field"),
    ("wrong type", {"prompt": 3}, "prompt: expected text or a list of messages"),
    ("unknown part", {"prompt": [{"role": "user", "content": [{"type": "sculpture"}]}]}, "prompt[0].content[0]: "),
    ("path", {"prompt": make_parts("/etc/passwd")}, "prompt[0].content[1].image: "),
    ("no image", {"prompt": make_parts("data:image/png;base64,AAAA")}, "prompt[0].content[1].image: "),
    ("32-bit pixels", {"images": [GOOD, DEEP]}, "images[1]: "),
    ("too elongated", {"prompt": make_parts(LONG)}, "prompt[0].content[1].image: "),
    ("too elongated, column", {"images": [GOOD, LONG]}, "images[1]: "),
    ("unsupported", {"prompt": make_parts(GOOD), "audios": [GOOD]}, "audios[0]: "),
    ("URL", {"images": ["https://evil.test/a.png"]}, "images[0]: "),
    ("too many media", {"images": [GOOD] * 4}, " 4 media are more than the 3 allowed"),
    ("nested deeply", {"prompt": NESTED}, " expected JSON of at most 32 nested levels"),
]


@pytest.mark.parametrize(("change", "problem"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
async def test_an_invalid_row_is_a_result_with_its_field(
    web: httpx.AsyncClient, change: dict[str, Any], problem: str
) -> None:
    row = {"prompt": "q", "responses": ["a"]}
    rows = [row | {"id": "one"}, row | change | {"id": "two"}, row | {"id": "three", "images": [GOOD]}]
    results = get_results(await web.post("/v1/judge", json={"comparisons": rows}))
    assert [(r["id"], r["status"]) for r in results] == [("one", "ok"), ("two", "invalid_input"), ("three", "ok")]
    Judgment.from_json(results[1])
    separator = ":" if problem.startswith(" ") else "."
    assert get_detail(results[1]).startswith(f"comparisons[1]{separator}{problem}")
    sample = {"prompt": "q", "response": "a"}
    body = {"samples": [sample, sample | change, sample | {"images": [GOOD]}]}
    results = get_results(await web.post("/v1/rewards", json=body))
    assert [(r["value"], r["status"]) for r in results] == [(5, "ok"), (None, "invalid_input"), (5, "ok")]
    assert get_detail(results[1]).startswith(f"samples[1]{separator}{problem}")


RUBRICS = [("genral", "rubric 'genral' does not exist"), ("judgelm", "made for 2"), (3, "expected text")]


@pytest.mark.parametrize(("rubric", "problem"), RUBRICS, ids=str)
async def test_a_wrong_rubric_of_a_row_concerns_that_row(web: httpx.AsyncClient, rubric: Any, problem: str) -> None:
    rows = [{"prompt": "q", "responses": ["a"]}, {"prompt": "q", "responses": ["a"], "rubric": rubric}]
    results = get_results(await web.post("/v1/judge", json={"comparisons": rows}))
    assert [r["status"] for r in results] == ["ok", "invalid_input"]
    assert get_detail(results[1]).startswith("comparisons[1].rubric: ")
    assert problem in get_detail(results[1])


@pytest.mark.parametrize("row", [None, [], 3, "text", {}], ids=str)
async def test_a_row_that_is_no_object_or_empty_is_a_result(web: httpx.AsyncClient, row: Any) -> None:
    results = get_results(await web.post("/v1/judge", json={"comparisons": [row, row]}))
    assert [get_detail(r).partition(":")[0].partition(".")[0] for r in results] == ["comparisons[0]", "comparisons[1]"]
    results = get_results(await web.post("/v1/rewards", json={"samples": [row]}))
    assert (results[0]["status"], results[0]["value"]) == ("invalid_input", None)


async def test_one_reference_in_several_rows_fails_each_under_its_own_field(web: httpx.AsyncClient) -> None:
    broken = "data:image/png;base64,AAAA"
    rows = [{"prompt": "q", "responses": ["a"], "images": [GOOD, broken][-1 - i :]} for i in range(2)]
    results = get_results(await web.post("/v1/judge", json={"comparisons": rows}))
    fields = [get_detail(r).partition(":")[0] for r in results]
    assert fields == ["comparisons[0].images[0]", "comparisons[1].images[1]"]


async def test_missing_uploads_of_valid_rows_are_requested_at_once(web: httpx.AsyncClient) -> None:
    row = {"prompt": "q", "responses": ["a"]}
    rows = [row | {"images": [{"digest": "0" * 64}]}, row | {"prompt": 3}, row | {"images": [{"digest": "1" * 64}]}]
    answer = await web.post("/v1/judge", json={"comparisons": rows})
    assert (answer.status_code, answer.json()["missing_media"]) == (409, ["0" * 64, "1" * 64])


async def test_counts_rows_that_no_judge_saw(web: httpx.AsyncClient, metrics: InvalidRowMetrics) -> None:
    row = {"prompt": "q", "responses": ["a"]}
    await web.post("/v1/judge", json={"comparisons": [row, row | {"prompt": 3}, row | {"rubric": "nice"}]})
    await web.post("/v1/rewards", json={"samples": [{"prompt": "q", "response": 3}]})
    assert metrics.statuses == ["invalid_input"] * 3


@pytest.mark.parametrize(
    "broken", [[{"type": "image", "image": LONG}], [{"type": "image", "image": "data:image/png;base64,AAAA"}], 3]
)
@pytest.mark.parametrize("method", ["round_robin", "circular", "swiss", "knockout", "listwise"])
async def test_an_invalid_response_is_a_present_member_of_its_group(
    web: httpx.AsyncClient, method: str, broken: Any
) -> None:
    spec = {"method": method, "reward": "expected", "group_size": 3, "group_timeout_s": 30}
    requests = [{"samples": [{"prompt": "q", "response": r}], **spec} for r in ("a", broken, "b")]
    answers = asyncio.gather(*(web.post("/v1/rewards", json=request) for request in requests))
    results = [get_results(answer)[0] for answer in await asyncio.wait_for(answers, 10)]
    # This judge scores by position, and a circle of two compares them in both orders.
    assert sorted(results[i]["value"] for i in (0, 2)) == ([4.5, 4.5] if method == "circular" else [4, 5])
    assert (results[1]["value"], results[1]["status"]) == (None, "invalid_input")
    assert results[1]["detail"].startswith("samples[0].response")
    assert {result["group"]["size"] for result in results} == {3}


async def test_a_sample_with_a_problem_is_reported_with_it(web: httpx.AsyncClient) -> None:
    rows = [{"prompt": "q", "response": "a"}, {"prompt": "q", "response": "", "problem": "response: no text"}]
    results = get_results(await web.post("/v1/rewards", json={"samples": rows, "normalize": "center"}))
    assert [(r["value"], r["status"]) for r in results] == [(0.0, "ok"), (None, "invalid_input")]
    assert results[1]["detail"] == "samples[1]: response: no text"


async def test_a_sample_without_its_baseline_concerns_itself(web: httpx.AsyncClient) -> None:
    rows = [{"prompt": "q", "response": "a", "baseline": "b"}, {"prompt": "q", "response": "b"}]
    body = {"samples": rows, "method": "baseline", "reward": "win_rate"}
    results = get_results(await web.post("/v1/rewards", json=body))
    assert [(r["value"], r["status"]) for r in results] == [(1.0, "ok"), (None, "invalid_input")]
    assert results[1]["detail"].startswith("samples[1].baseline: missing")


async def test_too_many_completions_of_one_prompt_concern_that_group(web: httpx.AsyncClient) -> None:
    rows = [{"prompt": "many", "response": str(i)} for i in range(65)] + [{"prompt": "q", "response": r} for r in "ab"]
    body = {"samples": rows, "method": "round_robin", "reward": "win_rate"}
    results = get_results(await web.post("/v1/rewards", json=body))
    assert [r["status"] for r in results] == ["invalid_input"] * 65 + ["ok"] * 2
    assert results[3]["detail"].startswith("samples[3]: completions of one prompt: got 65")


async def test_a_comparison_that_the_judge_refuses_concerns_itself() -> None:
    async def refuse(comparison: Comparison) -> Judgment:
        if comparison.responses == ("b",):
            raise UsageError("rubric 'mine': the file is missing")
        return Judgment(comparison.id, Status.OK, (3.0,), None, "")

    async with client(Gateway(refuse)) as http:
        rows = [{"prompt": "q", "responses": [r]} for r in "abc"]
        results = get_results(await http.post("/v1/judge", json={"comparisons": rows}))
        assert [r["status"] for r in results] == ["ok", "invalid_input", "ok"]
        assert get_detail(results[1]) == "comparisons[1]: rubric 'mine': the file is missing"
        body = {"samples": [{"prompt": "q", "response": r} for r in "abc"]}
        results = get_results(await http.post("/v1/rewards", json=body))
        assert [r["status"] for r in results] == ["ok", "invalid_input", "ok"]


async def test_an_error_of_the_setup_fails_the_request() -> None:
    async def fail(_: Comparison) -> Judgment:
        raise LedgerError("ledger.sqlite: disk full")

    async with client(Gateway(fail)) as http:
        answer = await http.post("/v1/judge", json={"comparisons": [{"prompt": "q", "responses": ["a"]}]})
    assert answer.status_code == 422
    assert "disk full" in answer.json()["error"]


async def test_invalid_samples_of_openrlhf_are_present_members_of_their_groups() -> None:
    spec = RewardSpec(method="round_robin", reward="win_rate", group_size=3, group_timeout_s=30.0)
    config = GatewayConfig(openrlhf=spec)
    labels: list[Any] = ["", '{"baseline": 3}', ""]
    async with client(Gateway(make_judge().ajudge, config)) as http:
        bodies = [{"query": [f"q{r}"], "prompts": ["q"], "labels": [y]} for r, y in zip("abc", labels, strict=True)]
        answers = await asyncio.wait_for(asyncio.gather(*(http.post("/get_reward", json=b) for b in bodies)), 10)
    results = [answer.json() for answer in answers]
    assert sorted(results[i]["rewards"][0] for i in (0, 2)) == [0.0, 1.0]
    assert (results[1]["rewards"], results[1]["extra_logs"]["judge_invalid_input"]) == ([None], [1.0])
    assert all(result["extra_logs"]["judge_group_whole"] == [1.0] for result in results)
