"""Every form of a conversation through every entrance: the judge is shown the same."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import httpx
import numpy as np
import pyarrow as pa
import pytest
from clips import encode_uri
from conversation_forms import ANSWER, CALL, FORMS, QUESTION, RED, RESULT, Form, make_calling
from file_forms import write_form
from PIL import Image
from pydantic import BaseModel
from scripts import SETTINGS, score_five
from served import served

from flex_judge.alignment.data.prompts import PromptColumns, read_prompts
from flex_judge.alignment.data.sources import open_source
from flex_judge.judges import Comparison, FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.io.files import read_comparisons
from flex_judge.judges.media.opening import make_image
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.reward.slime import judge_reward
from flex_judge.reward.trl import JudgeReward
from flex_judge.reward.verl import compute_score_sync

Shown = tuple[str, tuple[str, ...]]
"""Prompt of the judge, and the digests of its media."""


class Desk:
    """A judge that remembers what it was shown, in this process and behind HTTP."""

    def __init__(self, engine: ScriptedEngine, judge: FlexJudge, url: str, folder: Path) -> None:
        self.engine, self.judge, self.url, self.folder = engine, judge, url, folder

    def take_shown(self) -> Shown:
        """Return what the judge was shown last, and forget it."""
        (prompt, _), media = self.engine.requests[0], self.engine.media[0]
        self.forget()
        return prompt, tuple(medium.digest for medium in media)

    def forget(self) -> None:
        """Forget all requests."""
        self.engine.requests.clear()
        self.engine.media.clear()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    engine = ScriptedEngine(score_five, profile=PROFILES["flex-omni"])
    judge = FlexJudge(engine, SETTINGS)
    with served(judge) as service:
        yield Desk(engine, judge, service.url, tmp_path_factory.mktemp("rows"))


def judge_in_python(desk: Desk, form: Form) -> None:
    columns = dict(form.columns)
    singular = {name: columns.pop(name) for name in ("image", "video", "audio") if name in columns}
    columns |= {f"{name}s": [value] for name, value in singular.items()}
    for name in ("images", "videos", "audios"):
        if isinstance(columns.get(name), str):
            columns[name] = [columns[name]]
    judgment = desk.judge.judge([Comparison.of(form.prompt, form.response, **columns)])[0]
    assert judgment.scores is not None, judgment.votes


def judge_file(desk: Desk, form: Form, file_form: str) -> None:
    row = {"prompt": form.prompt, "responses": [form.response], **form.columns}
    (read,) = read_comparisons(write_form(desk.folder, file_form, [row]))
    assert desk.judge.judge([read.load_comparison()])[0].scores is not None


def post(desk: Desk, path: str, body: Any) -> Any:
    answer = httpx.post(desk.url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def post_comparison(desk: Desk, form: Form) -> None:
    row = {"prompt": form.prompt, "responses": [form.response], **form.columns}
    (judgment,) = post(desk, "/v1/judge", {"comparisons": [row]})["judgments"]
    assert judgment["status"] == "ok", judgment


def post_sample(desk: Desk, form: Form) -> None:
    row = {"prompt": form.prompt, "response": form.response, **form.columns}
    (reward,) = post(desk, "/v1/rewards", {"samples": [row]})["rewards"]
    assert reward["status"] == "ok", reward


def post_openrlhf(desk: Desk, form: Form) -> None:
    label = {"prompt": form.prompt, **form.columns}
    body = {"query": ["template" + form.response], "prompts": ["template"], "labels": [json.dumps(label)]}
    (reward,) = post(desk, "/get_reward", body)["rewards"]
    assert reward is not None


def split_view(form: Form) -> tuple[Any, dict[str, Any]]:
    columns = dict(form.columns)
    return columns.pop("view", "full"), columns


def reward_with_trl(judge: Any, form: Form) -> None:
    view, columns = split_view(form)
    values = JudgeReward(judge, view=view)(
        prompts=[form.prompt], completions=[form.response], **{name: [value] for name, value in columns.items()}
    )
    assert values[0] is not None


def reward_with_verl(desk: Desk, form: Form) -> None:
    view, columns = split_view(form)
    result = compute_score_sync(
        "data", form.response, None, {"question": form.prompt, **columns}, url=desk.url, view=view
    )
    assert result["judge_ok"] == 1.0


def post_slime(desk: Desk, form: Form) -> None:
    label = json.dumps({"prompt": form.prompt, **form.columns})
    assert post(desk, "/rm", {"prompt": "template", "response": form.response, "label": label}) is not None


def reward_with_slime(desk: Desk, form: Form) -> None:
    view, columns = split_view(form)
    metadata = {"prompt": form.prompt, "response": form.response, **columns}
    sample = SimpleNamespace(prompt="template", response="", group_index=0, metadata=metadata)
    args = SimpleNamespace(rm_url=f"{desk.url}/rm", group_rm=False)
    with mock.patch.dict(os.environ, FLEX_JUDGE_VIEW=view):
        assert asyncio.run(judge_reward(args, sample)) is not None


def judge_data_run(desk: Desk, form: Form) -> None:
    path = write_form(desk.folder, "plain", [{"prompt": form.prompt, **form.columns}], stem="prompts")
    (row,) = read_prompts(open_source(str(path)), 0, 1, PromptColumns())
    assert not isinstance(row, Exception), row
    (response,) = Comparison.of("", form.response, view=form.columns.get("view", "full")).responses
    assert desk.judge.judge([Comparison("", row.prompt, (response,))])[0].scores is not None


Entrance = Callable[[Desk, Form], None]
ENTRANCES: dict[str, Entrance] = {
    "Python": judge_in_python,
    "a JSON lines file": lambda desk, form: judge_file(desk, form, "plain"),
    "a Parquet file": lambda desk, form: judge_file(desk, form, "Parquet"),
    "/v1/judge": post_comparison,
    "/v1/rewards": post_sample,
    "/get_reward": post_openrlhf,
    "TRL in process": lambda desk, form: reward_with_trl(desk.judge, form),
    "TRL over HTTP": lambda desk, form: reward_with_trl(desk.url, form),
    "verl": reward_with_verl,
    "/rm": post_slime,
    "slime": reward_with_slime,
    "a data run": judge_data_run,
}


def is_possible(entrance: str, form: Form) -> bool:
    """Return whether an entrance can carry a form at all."""
    if entrance in ("/get_reward", "/rm"):  # responses of remote reward models are texts
        return isinstance(form.response, str) and "view" not in form.columns
    return True


CASES = [(e, f) for e in ENTRANCES for f in FORMS if is_possible(e, FORMS[f])]


@pytest.mark.parametrize(("entrance", "name"), CASES, ids=[f"{e}: {f}" for e, f in CASES])
def test_the_judge_is_shown_the_same_through_every_entrance(entrance: str, name: str, desk: Desk) -> None:
    form = FORMS[name]
    desk.forget()
    judge_in_python(desk, form)
    expected = desk.take_shown()
    ENTRANCES[entrance](desk, form)
    assert desk.take_shown() == expected


@pytest.mark.parametrize("name", FORMS)
def test_the_judge_is_shown_all_of_a_form(name: str, desk: Desk) -> None:
    form = FORMS[name]
    desk.forget()
    judge_in_python(desk, form)
    prompt, media = desk.take_shown()
    turn = prompt.rpartition("<|im_start|>user\n")[2]
    pattern = ".*".join(re.escape(text) for text in form.shown)
    assert re.search(pattern, turn, re.DOTALL), turn
    assert not [text for text in form.hidden if text in turn]
    assert len(media) == form.media


class CallFunction(BaseModel):
    """Function of a call, as SDKs return it."""

    name: str
    arguments: str


class Call(BaseModel):
    """Call of a tool, as SDKs return it."""

    id: str
    function: CallFunction
    type: str = "function"


class AssistantMessage(BaseModel):
    """Message, as SDKs return it."""

    role: str = "assistant"
    content: str | None = None
    tool_calls: list[Call] | None = None


def make_object_array(*values: Any) -> Any:
    """Make an array of objects, as pandas and verl read lists from Parquet files."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


CALLING = make_calling(tool_calls=[CALL])
IMAGE_QUESTION = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
PICTURE = Image.new("RGB", (28, 28), "red")
PYTHON_FORMS: dict[str, tuple[Form, Form]] = {
    "messages of an SDK": (
        Form([QUESTION], [AssistantMessage(tool_calls=[Call(id="call_1", function=CallFunction(**CALL["function"]))])]),
        Form([QUESTION], [CALLING]),
    ),
    "arrays of messages": (
        Form(make_object_array(QUESTION), make_object_array(CALLING | {"tool_calls": make_object_array(CALL)}, RESULT)),
        Form([QUESTION], [CALLING, RESULT]),
    ),
    "Arrow values": (
        Form(pa.array([[QUESTION]])[0], pa.array([[CALLING, RESULT | {"tool_calls": None}]])[0]),
        Form([QUESTION], [CALLING, RESULT]),
    ),
    "a PIL image": (
        Form([IMAGE_QUESTION], columns={"images": [PICTURE]}),
        Form([IMAGE_QUESTION], columns={"images": [make_image(PICTURE).data]}),
    ),
    "bytes of a data set": (
        Form([IMAGE_QUESTION], columns={"images": make_object_array({"bytes": RED, "path": None})}),
        Form([IMAGE_QUESTION], columns={"images": [encode_uri(RED)]}),
    ),
    "an image column of a data set": (
        Form([IMAGE_QUESTION], columns={"image": {"bytes": RED, "path": "elsewhere.png"}}),
        Form([IMAGE_QUESTION], columns={"images": [encode_uri(RED)]}),
    ),
    "an image object": (
        Form([IMAGE_QUESTION], columns={"images": [{"image": encode_uri(RED)}]}),
        Form([IMAGE_QUESTION], columns={"images": [encode_uri(RED)]}),
    ),
}
PYTHON_ENTRANCES = ("TRL in process", "TRL over HTTP", "verl", "slime")


@pytest.mark.parametrize("name", PYTHON_FORMS)
@pytest.mark.parametrize("entrance", PYTHON_ENTRANCES)
def test_objects_of_libraries_are_read_like_json(entrance: str, name: str, desk: Desk) -> None:
    given, plain = PYTHON_FORMS[name]
    desk.forget()
    reward_with_trl(desk.judge, plain)
    expected = desk.take_shown()
    ENTRANCES[entrance](desk, given)
    assert desk.take_shown() == expected


UNKNOWN = [QUESTION | {"mood": "grumpy"}]


@pytest.mark.parametrize("entrance", ["/v1/judge", "/v1/rewards"])
def test_an_unknown_field_is_refused_over_http(entrance: str, desk: Desk) -> None:
    name, result = ("comparisons", "judgments") if entrance == "/v1/judge" else ("samples", "rewards")
    row = {"prompt": UNKNOWN, **({"responses": ["a"]} if name == "comparisons" else {"response": "a"})}
    (answer,) = post(desk, entrance, {name: [row]})[result]
    assert answer["status"] == "invalid_input"
    assert f"{name}[0].prompt[0].mood: unknown field" in json.dumps(answer)


def test_an_unknown_field_is_named_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    messages = [[QUESTION | {"humour": "dry"}], [ANSWER]]
    for _ in range(2):
        reward_with_trl(desk.judge, Form(*messages))
    assert [record.message.count("humour") for record in caplog.records] == [1]
