"""Policy behind an OpenAI-compatible endpoint, tested with a real HTTP server that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import io
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from served import Served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flex_judge.alignment.policies import Completion, OpenAIPolicy, PolicyConfig, endpoint, load_policy
from flex_judge.judges import Comparison, Message
from flex_judge.judges.engines import Sampling
from flex_judge.judges.errors import AccessError, EngineLostError, MediaError, UsageError
from flex_judge.judges.media.opening import make_molecule, make_video

KEY = "sk-very-secret"
WARM = Sampling(16, 0.8, top_p=0.9)
PROMPT = (Message("system", "Be brief."), Message("user", "Name a colour."))


class FakeServer:
    """Endpoint that sends the responses of a script first, then completions whose texts name the seed and the index.

    Returns at most `max_choices` choices and rejects requests for more than `max_n`.
    """

    def __init__(self) -> None:
        self.script: deque[Response] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.max_choices, self.max_n = 128, 128
        self.wait_s = 0.0
        self.in_progress, self.max_in_progress = 0, 0
        self.served = Served(
            lambda: Starlette(
                routes=[
                    Route("/v1/chat/completions", self.complete, methods=["POST"]),
                    Route("/v1/models", lambda _: JSONResponse({"data": []})),
                ]
            )
        )

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.keys.append(request.headers.get("Authorization"))
        self.in_progress += 1
        self.max_in_progress = max(self.max_in_progress, self.in_progress)
        await asyncio.sleep(self.wait_s)
        self.in_progress -= 1
        if self.script:
            return self.script.popleft()
        n = body.get("n", 1)
        if n > self.max_n:
            return JSONResponse({"error": {"message": f"n must be at most {self.max_n}"}}, 400)
        return make_response([f"{body.get('seed', 'no seed')} {i}" for i in range(min(n, self.max_choices))])


def make_response(texts: Sequence[str | None], tokens: int | None = None, reason: str = "stop") -> Response:
    choices = [
        {"index": i, "message": {"role": "assistant", "content": t}, "finish_reason": reason}
        for i, t in enumerate(texts)
    ]
    usage = {"prompt_tokens": 9, "completion_tokens": 5 * len(texts) if tokens is None else tokens}
    return JSONResponse({"choices": choices, "usage": usage})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr(endpoint, "FIRST_RETRY_S", 0.01)
    monkeypatch.setenv("POLICY_KEY", KEY)
    server = FakeServer()
    server.served.start()
    yield server
    server.served.stop()


@pytest.fixture
def policy(server: FakeServer) -> Iterator[OpenAIPolicy]:
    policy = OpenAIPolicy(server.served.url, "tiny", "env:POLICY_KEY", deadline_s=5)
    yield policy
    policy.close()


def sample_texts(
    policy: Any, sampling: Sampling = WARM, sample_indices: Sequence[int] = range(1), prompt: Any = PROMPT
) -> list[str]:
    return [c.text for c in asyncio.run(policy.sample(prompt, sampling, sample_indices))]


def test_all_samples_of_a_prompt_are_one_request(server: FakeServer, policy: OpenAIPolicy) -> None:
    assert sample_texts(policy, sample_indices=range(5)) == [f"no seed {i}" for i in range(5)]
    (body,) = server.bodies
    assert body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}],
        "max_tokens": 16,
        "temperature": 0.8,
        "top_p": 0.9,
        "n": 5,
    }
    assert server.keys == [f"Bearer {KEY}"]


def test_learns_the_maximum_number_of_choices(server: FakeServer, policy: OpenAIPolicy) -> None:
    server.max_choices = 2
    assert len(sample_texts(policy, sample_indices=range(5))) == 5
    assert [body.get("n") for body in server.bodies] == [5, 2, None]
    server.bodies.clear()
    assert len(sample_texts(policy, sample_indices=range(5))) == 5
    assert sorted(body.get("n", 1) for body in server.bodies) == [1, 2, 2]


def test_requests_one_by_one_if_the_endpoint_rejects_n(server: FakeServer, policy: OpenAIPolicy) -> None:
    server.max_n = 1
    assert len(sample_texts(policy, sample_indices=range(3))) == 3
    assert [body.get("n") for body in server.bodies] == [3, None, None, None]


def test_seeded_sample_does_not_depend_on_the_other_indices(server: FakeServer, policy: OpenAIPolicy) -> None:
    seeded = Sampling(16, 0.8, seed=7)
    four_texts = sample_texts(policy, seeded, range(4))
    assert len(set(four_texts)) == 4
    assert sample_texts(policy, seeded, [3, 1]) == [four_texts[3], four_texts[1]]
    assert all(0 <= body["seed"] < 2**31 and "n" not in body for body in server.bodies)
    assert sample_texts(policy, Sampling(16, 0.8, seed=8), [0]) != four_texts[:1]


def test_trims_at_stop_strings_and_reports_truncation(server: FakeServer, policy: OpenAIPolicy) -> None:
    server.script.append(make_response([" red\nand blue ", "green"], tokens=11, reason="length"))
    completions = asyncio.run(policy.sample(PROMPT, Sampling(16, 1.0, stop=("\n",)), range(2)))
    assert [(c.text, c.cut) for c in completions] == [("red", True), ("green", True)]
    assert sum(c.tokens for c in completions) == 11
    assert completions[0].tokens > completions[1].tokens > 0
    assert server.bodies[0]["stop"] == ["\n"]


def test_missing_content_is_an_empty_completion(server: FakeServer, policy: OpenAIPolicy) -> None:
    server.script.append(make_response([None], tokens=0))
    assert asyncio.run(policy.sample(PROMPT, WARM, [0])) == [Completion("", 0, False)]


@pytest.mark.parametrize("tokens", ["NaN", "Infinity", "1e999", "-5", '"many"', "[3]", "true", "null"])
def test_token_count_that_is_no_number_costs_no_completion(
    server: FakeServer, policy: OpenAIPolicy, tokens: str
) -> None:
    choice = '{"message": {"content": "red"}, "finish_reason": "stop"}'
    body = f'{{"choices": [{choice}], "usage": {{"completion_tokens": {tokens}}}}}'
    server.script.append(Response(body, media_type="application/json"))
    assert asyncio.run(policy.sample(PROMPT, WARM, [0])) == [Completion("red", 0, False)]


def test_sends_images_as_data_uris_and_molecules_as_text(server: FakeServer, policy: OpenAIPolicy) -> None:
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    files = []
    for picture, kind in zip(pictures, ("JPEG", "BMP"), strict=True):
        file = io.BytesIO()
        picture.save(file, kind)
        files.append(file.getvalue())
    (message,) = Comparison.of("What is it?", "", images=files).prompt
    sample_texts(policy, prompt=[message, Message("user", ("And this? ", make_molecule("CCO")))])
    first, second = (m["content"] for m in server.bodies[0]["messages"])
    urls = [part["image_url"]["url"] for part in first if part["type"] == "image_url"]
    assert urls[0] == "data:image/jpeg;base64," + base64.b64encode(files[0]).decode()
    head, _, data = urls[1].partition(",")
    assert head == "data:image/png;base64"  # BMP is converted, because few endpoints accept it
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) == (0, 0, 255)
    assert first[-1] == {"type": "text", "text": "What is it?"}
    assert [part["text"] for part in second] == ["And this? ", "CCO"]


def test_rejects_video(policy: OpenAIPolicy) -> None:
    clip = make_video([Image.new("RGB", (8, 8))] * 2, fps=1)
    with pytest.raises(MediaError, match="got video, but a policy behind an endpoint takes text and images"):
        sample_texts(policy, prompt=[Message("user", (clip,))])


def test_rejects_several_greedy_samples(server: FakeServer, policy: OpenAIPolicy) -> None:
    with pytest.raises(UsageError, match="temperature"):
        sample_texts(policy, Sampling(16), range(2))
    assert not server.bodies
    assert len(sample_texts(policy, Sampling(16))) == 1


def test_retries_a_busy_endpoint(server: FakeServer, policy: OpenAIPolicy) -> None:
    server.script += [Response("busy", 429, {"Retry-After": "0"}), Response("", 503), Response("oops", 500)]
    assert sample_texts(policy) == ["no seed 0"]
    assert len(server.bodies) == 4


def test_reports_the_last_problem_of_a_broken_endpoint(server: FakeServer) -> None:
    policy = OpenAIPolicy(server.served.url, "tiny", deadline_s=0.1)
    server.script += [Response("out of memory", 500)] * 99
    with pytest.raises(EngineLostError, match="500: out of memory"):
        sample_texts(policy)
    policy.close()


def test_recovers_when_an_unreachable_endpoint_is_back(server: FakeServer) -> None:
    policy = OpenAIPolicy(server.served.url, "tiny", deadline_s=0.3)
    asyncio.run(policy.check_health())
    server.served.stop()
    with pytest.raises(EngineLostError, match="no answer"):
        sample_texts(policy)
    with pytest.raises(EngineLostError, match="no answer"):
        asyncio.run(policy.check_health())
    server.served.start()
    assert sample_texts(policy) == ["no seed 0"]
    policy.close()


def test_gives_up_a_hanging_endpoint_at_the_deadline(server: FakeServer) -> None:
    server.wait_s = 3.0
    policy = OpenAIPolicy(server.served.url, "tiny", attempt_s=0.4, deadline_s=1.6)
    with pytest.raises(EngineLostError, match="ReadTimeout"):
        sample_texts(policy)
    assert len(server.bodies) > 1
    policy.close()


@pytest.mark.parametrize(
    "body",
    [{"error": {"message": "prompt is too long"}}, {"message": "prompt is too long"}, {"detail": "prompt is too long"},
     {"error": "prompt is too long"}],
)  # fmt: skip
def test_rejection_has_the_message_of_the_endpoint(server: FakeServer, policy: OpenAIPolicy, body: Any) -> None:
    server.script.append(JSONResponse(body, 400))
    with pytest.raises(UsageError, match="400: prompt is too long"):
        sample_texts(policy)
    assert len(server.bodies) == 1


def test_key_is_in_no_message_and_no_repr(server: FakeServer, policy: OpenAIPolicy) -> None:
    server.script.append(JSONResponse({"error": {"message": f"Incorrect API key: {KEY}."}}, 401))
    with pytest.raises(AccessError) as rejection:
        sample_texts(policy, sample_indices=range(2))
    assert "Incorrect API key: ***." in str(rejection.value)
    config = PolicyConfig(
        "m", url="http://h", api_key=KEY
    )  # the key itself instead of its source: a mistake that must not leak it
    assert KEY not in f"{rejection.value} {policy!r} {vars(policy)['url']} {config!r}"
    with pytest.raises(UsageError) as unreadable:
        load_policy(config)
    assert KEY not in str(unreadable.value)


def test_reads_the_key_from_a_file(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("another\n")
    policy = OpenAIPolicy(server.served.url, "tiny", str(tmp_path / "key"))
    sample_texts(policy)
    assert server.keys == ["Bearer another"]
    policy.close()


@pytest.mark.parametrize("body", ["[]", "{}", '{"choices": [{}]}', '{"choices": [1]}', "<html>"])
def test_names_an_address_that_is_no_such_endpoint(server: FakeServer, policy: OpenAIPolicy, body: str) -> None:
    server.script.append(Response(body))
    with pytest.raises(UsageError, match="is this the address of an OpenAI-compatible endpoint"):
        sample_texts(policy)


def test_response_without_completions_is_an_error(server: FakeServer, policy: OpenAIPolicy) -> None:
    server.script.append(make_response([]))
    with pytest.raises(EngineLostError, match="the response has no completion"):
        sample_texts(policy)


def test_unknown_route_suggests_what_to_check(server: FakeServer) -> None:
    policy = OpenAIPolicy(f"{server.served.url}/v2", "tiny")
    with pytest.raises(UsageError, match="check the address and the name of the model"):
        sample_texts(policy)
    policy.close()


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host", "http://", "http://me:pw@host/v1", "http://h/v1?key=pw", "http://h:x/v1"]
)
def test_rejects_an_invalid_url_without_repeating_it(url: str) -> None:
    with pytest.raises(UsageError, match="url: expected") as rejection:
        OpenAIPolicy(url, "m")
    assert "pw" not in str(rejection.value)


def test_limits_concurrent_requests(server: FakeServer) -> None:
    server.wait_s = 0.02
    policy = load_policy(PolicyConfig("tiny", url=f"{server.served.url}/v1", max_batch=3))
    sample_texts(policy, Sampling(16, 1.0, seed=1), range(9))
    assert server.max_in_progress == 3
    policy.close()


def test_sends_extra_fields_and_leaves_out_none(server: FakeServer) -> None:
    options = {"top_k": 20, "max_tokens": None, "max_completion_tokens": 99}
    policy = load_policy(PolicyConfig("tiny", url=server.served.url, options=options))
    sample_texts(policy)
    assert server.bodies[0]["top_k"] == 20
    assert server.bodies[0]["max_completion_tokens"] == 99
    assert "max_tokens" not in server.bodies[0]
    policy.close()


def test_rejects_regex(policy: OpenAIPolicy) -> None:
    with pytest.raises(UsageError, match="regex and logprob_token_ids: not supported"):
        sample_texts(policy, Sampling(16, 1.0, regex="[ab]"))


def test_sends_a_lone_surrogate_unchanged(server: FakeServer, policy: OpenAIPolicy) -> None:
    sample_texts(policy, prompt=[Message("user", "half \ud83d")])
    assert server.bodies[0]["messages"][0]["content"] == "half \ud83d"


TOOL_CHAT = [
    {"role": "user", "content": "Weather in Rome?"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "I look it up.",
        "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Rome"}}}],
    },
    {"role": "tool", "content": "21C"},
]


def sample(policy: OpenAIPolicy, sampling: Sampling = WARM, prompt: Any = PROMPT) -> list[Completion]:
    return asyncio.run(policy.sample(prompt, sampling, [0]))


def reply_with(**message: Any) -> Response:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "tool_calls"}
    return JSONResponse({"choices": [choice], "usage": {"completion_tokens": 9}})


def test_request_carries_tool_calls_results_and_definitions(server: FakeServer, policy: OpenAIPolicy) -> None:
    prompt = Comparison.of(TOOL_CHAT, "", tools=[{"name": "get_weather", "parameters": {"type": "object"}}]).prompt
    sample(policy, prompt=prompt)
    body = server.bodies[0]
    assert body["tools"] == [
        {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    ]
    user, assistant, tool = body["messages"]
    assert user == {"role": "user", "content": "Weather in Rome?"}
    assert assistant["content"] is None
    assert assistant["reasoning_content"] == "I look it up."
    (call,) = assistant["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    assert call["id"] == tool["tool_call_id"]  # endpoints match results by id


def test_request_of_a_plain_prompt_is_as_before(server: FakeServer, policy: OpenAIPolicy) -> None:
    sample(policy)
    assert "tools" not in server.bodies[0]
    assert server.bodies[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a colour."},
    ]


def test_tool_calls_of_a_reply_become_a_trajectory(server: FakeServer, policy: OpenAIPolicy) -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    for call_id in ("call_x1", "call_x2"):  # endpoints draw ids at random
        call = {"id": call_id, "type": "function", "function": function}
        server.script.append(reply_with(content=None, tool_calls=[call]))
    first, second = (sample(policy)[0] for _ in range(2))
    (message,) = first.response.messages  # type: ignore[union-attr]
    assert (message.role, message.content) == ("assistant", "")
    assert (message.tool_calls[0].name, message.tool_calls[0].arguments) == ("get_weather", '{"city": "Oslo"}')
    assert first == second
    assert 'get_weather({"city": "Oslo"})' in first.text
    assert not first.cut
    assert first.tokens == 9


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": " It is 5. ", "tool_calls": [], "function_call": None, "refusal": None}, "It is 5."),
        ({"content": None, "refusal": "I cannot."}, "I cannot."),
        ({"content": None}, ""),
        ({}, ""),
        ({"content": [{"type": "text", "text": "It is 5."}]}, "It is 5."),
    ],
)
def test_reply_without_calls_and_reasoning_is_text(
    message: dict[str, Any], text: str, server: FakeServer, policy: OpenAIPolicy
) -> None:
    server.script.append(reply_with(**message))
    assert sample(policy)[0].response == text


def test_reasoning_of_a_reply_is_kept(server: FakeServer, policy: OpenAIPolicy) -> None:
    server.script.append(reply_with(content="It is 5. END more", reasoning_content="2 + 3", reasoning="2 + 3"))
    (completion,) = sample(policy, Sampling(16, 0.8, stop=("END",)))
    (message,) = completion.response.messages  # type: ignore[union-attr]
    assert (message.reasoning, message.content) == ("2 + 3", "It is 5.")


def test_call_without_a_name_is_an_error_with_its_field(server: FakeServer, policy: OpenAIPolicy) -> None:
    server.script.append(reply_with(content=None, tool_calls=[{"function": {"arguments": "{}"}}]))
    with pytest.raises(UsageError, match=r"unknown form: message\[0\].tool_calls\[0\].name"):
        sample(policy)


def test_reply_cannot_open_files_of_this_machine(server: FakeServer, policy: OpenAIPolicy, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    server.script.append(reply_with(content=[{"type": "image", "image": str(tmp_path / "private.png")}]))
    with pytest.raises(UsageError, match="got a part of type image, expected text"):
        sample(policy)
