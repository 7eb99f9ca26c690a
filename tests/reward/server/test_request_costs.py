"""No request harms another: the cost of a body is bounded, and an unexpected error costs its row only."""

from __future__ import annotations

import json
import logging
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from clips import encode_uri, noise, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from web import HeldJudge, client, comparisons, get_results, get_statuses, samples

from flex_judge.judges import Comparison, Judgment, Message
from flex_judge.judges.errors import GenerationError, RequestTooLargeError
from flex_judge.judges.media.opening import make_media
from flex_judge.judges.media.types import Media, Modality
from flex_judge.reward.groups import collector
from flex_judge.reward.server import auth, media_decoding
from flex_judge.reward.server.auth import check_structure
from flex_judge.reward.server.gateway import Gateway, GatewayConfig
from flex_judge.reward.types import RewardSpec, Sample

JSON = {"Content-Type": "application/json"}
MIB = 1 << 20
EXPENSIVE = {
    "lists": b"[]," * (MIB // 3),
    "numbers": b"0," * (MIB // 2),
    "objects": b'{"a":1},' * (MIB // 8),
    "strings": b'"",' * (MIB // 3),
    "no separators": b'""' * (MIB // 2),
    "nesting": b"[" * MIB,
    "quotes": b'"' * MIB,
}


@pytest.mark.parametrize(
    ("path", "name"), [*(("/v1/judge", name) for name in EXPENSIVE), ("/v1/rewards", "lists"), ("/get_reward", "lists")]
)
async def test_many_values_are_refused_before_they_are_parsed(path: str, name: str) -> None:
    body = b'{"comparisons":[' + EXPENSIVE[name] + b"0]}"
    async with client(HeldJudge().gateway(GatewayConfig(max_text_mib=1))) as http:
        await http.post("/v1/judge", json=comparisons("a"))  # everything is imported
        tracemalloc.start()
        answer = await http.post(path, content=body, headers=JSON)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert answer.status_code == 413
    assert "50000 JSON values allowed" in answer.json()["error"]
    assert peak < 8 * len(body)  # parsing takes about 40 bytes per byte


async def test_long_texts_are_refused_and_media_are_not_counted() -> None:
    image = encode_uri(picture(noise(900, 900)), "image/png")
    assert len(image) > 2 * MIB
    async with client(HeldJudge().gateway(GatewayConfig(max_text_mib=1))) as http:
        answer = await http.post("/v1/judge", json=comparisons("a" * MIB))
        assert answer.status_code == 413
        assert "max_text_mib" in answer.json()["error"]
        assert (await http.post("/v1/judge", json=comparisons("a", images=[image]))).status_code == 200


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(['"', "\\", '\\"', '[{",', "data:,"]),
        lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    ),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_the_number_of_values_is_exact(value: Any, is_ascii: bool) -> None:
    def count(value: Any) -> int:
        if isinstance(value, str):
            return 1
        items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
        if items is None:
            return 0
        keys = len(value) if isinstance(value, dict) else 0
        return 1 + keys + max(0, len(items) - 1) + sum(map(count, items))

    body = json.dumps(value, ensure_ascii=is_ascii).encode(errors="replace")
    expected = count(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "TOKENS_PER_MIB", expected)
        check_structure(body, 1)
        if expected:
            patch.setattr(auth, "TOKENS_PER_MIB", expected - 1)
            with pytest.raises(RequestTooLargeError):
                check_structure(body, 1)


@given(st.binary(max_size=50) | st.text(alphabet='"\\[{,a', max_size=50).map(str.encode))
@settings(deadline=None)
def test_any_bytes_are_accepted(body: bytes) -> None:
    check_structure(body, 1)


class FailingJudge:
    """Judge that raises an error for candidates that contain `boom`."""

    def __init__(self, error: Exception) -> None:
        self._held = HeldJudge()
        self._error = error

    async def __call__(self, comparison: Comparison) -> Judgment:
        if any("boom" in str(response) for response in comparison.responses):
            raise self._error
        return await self._held.judge.ajudge(comparison)


UNEXPECTED = [ZeroDivisionError("secret path"), KeyError("a"), GenerationError("engine"), OSError(5, "disk")]


@pytest.mark.parametrize("error", UNEXPECTED, ids=repr)
async def test_an_unexpected_error_costs_its_comparison_only(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(Gateway(FailingJudge(error))) as http:
        answer = await http.post("/v1/judge", json=comparisons("a", "boom", "c"))
        assert get_statuses(answer) == ["ok", "failed", "ok"]
        failed = get_results(answer)[1]
        assert failed["id"] == "id of boom"
        assert failed["scores"] is None
        assert "secret" not in answer.text
        answer = await http.post("/v1/rewards", json=samples("a", "boom", "c"))
        assert get_statuses(answer) == ["ok", "failed", "ok"]
        answer = await http.post("/v1/rewards", json=samples("a", "boom", "c", method="round_robin", reward="win_rate"))
        assert get_statuses(answer)[0] == "ok"
        assert [reward["value"] is None for reward in get_results(answer)] == [False, True, False]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert errors
    assert all(record.exc_info and record.exc_info[1] is error for record in errors)


async def test_an_unexpected_error_of_a_medium_costs_its_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    image, other = (encode_uri(picture(noise(28, width)), "image/png") for width in (28, 56))

    def fail_for_one(modality: Modality, source: Any) -> Media:
        if source == other:
            raise ZeroDivisionError
        return make_media(modality, source)

    monkeypatch.setattr(media_decoding, "make_media", fail_for_one)
    rows = [{"prompt": "?", "responses": ["a"], "images": [i]} for i in (image, other, image)]
    async with client(HeldJudge().gateway()) as http:
        answer = await http.post("/v1/judge", json={"comparisons": rows})
    assert get_statuses(answer) == ["invalid_input", "failed", "invalid_input"]  # the scripted model takes no images


async def test_an_unexpected_error_of_a_group_costs_its_settings_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_for_pairs(rows: Sequence[Sample], spec: RewardSpec) -> None:
        if spec.rubric == "correctness":
            raise ZeroDivisionError("secret path")

    monkeypatch.setattr(collector, "check_samples", fail_for_pairs)
    body = {"query": ["?a", "?b", "?c"], "prompts": ["?"] * 3, "labels": ["", {"rubric": "correctness"}, ""]}
    async with client(HeldJudge().gateway()) as http:
        answer = await http.post("/get_reward", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["extra_logs"]["judge_ok"] == [1.0, 0.0, 1.0]
        answer = await http.post("/v1/rewards", json=samples("a", "b", rubric="correctness"))
        assert get_statuses(answer) == ["failed", "failed"]
        assert "secret" not in answer.text
    assert sum(record.exc_info is not None for record in caplog.records) == 2


async def test_an_unexpected_error_of_a_rubric_costs_its_settings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = HeldJudge().gateway()
    resolve = gateway.resolve_spec

    def fail_for_one(spec: RewardSpec, field: str = "rubric") -> RewardSpec:
        if spec.rubric == "correctness":
            raise OSError(5, "disk")
        return resolve(spec, field)

    monkeypatch.setattr(gateway, "resolve_spec", fail_for_one)
    row = Sample((Message("user", "Question?"),), "a")
    specs = [RewardSpec(), RewardSpec(rubric="correctness"), RewardSpec()]
    rewards = await gateway.compute_rewards([(row, spec) for spec in specs])
    assert [str(reward.status) for reward in rewards] == ["ok", "failed", "ok"]
    await gateway.close()
