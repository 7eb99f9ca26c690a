"""Encoding and decoding of comparisons and samples, and rejection of invalid requests."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
from clips import encode_uri, film, noise, picture, tone, wav
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.judges import Comparison, Media, Message
from flex_judge.judges.media.opening import make_audio, make_image, make_molecule, make_video
from flex_judge.judges.media.types import Modality
from flex_judge.judges.types import MAX_SAMPLE_INDEX, ToolCall, Trajectory
from flex_judge.reward.client.encoding import encode_comparison, encode_sample
from flex_judge.reward.server.decoding import decode_comparison, decode_sample
from flex_judge.reward.server.errors import FieldError, MissingMediaError
from flex_judge.reward.server.media_decoding import MediaDecoder
from flex_judge.reward.server.media_store import MediaStore
from flex_judge.reward.server.media_urls import UrlFetcher
from flex_judge.reward.server.row_failures import RowFailure
from flex_judge.reward.types import Sample

RED, BLUE = (make_image(picture(noise(8, 8 + i))) for i in range(2))
MEDIA = (
    RED,
    BLUE,
    make_audio(wav(tone(0.1))),
    make_video(film(range(0, 100, 20))),
    make_video([RED, BLUE, RED], fps=2.5),
    make_molecule("CC(=O)O"),
)
texts = st.text(st.characters(), max_size=12)  # including lone surrogates and control characters
parts = st.lists(st.one_of(texts, st.sampled_from(MEDIA)), min_size=1, max_size=4).map(tuple)
# A content of text only is one string, as created by `Comparison.of`.
contents = st.one_of(texts, parts.filter(lambda content: any(isinstance(p, Media) for p in content)))
roles = st.sampled_from(["system", "user", "assistant", "tool", "critic"])
calls = st.lists(st.builds(ToolCall, texts, texts.filter(lambda text: text.strip()[:1] not in "[{"), texts), max_size=2)
extra = {"name": texts, "tool_call_id": texts, "tool_calls": calls.map(tuple), "reasoning": texts}
extra["tools"] = st.lists(st.sampled_from(['{"name": "f"}', '{"type": "function"}']), max_size=2).map(tuple)
prompts = st.lists(st.builds(Message, roles, contents, **extra), min_size=1, max_size=3).map(tuple)
responses = contents | prompts.map(Trajectory).filter(lambda t: len(t.messages) > 1)
some_comparisons = st.builds(
    Comparison,
    texts,
    prompts,
    st.lists(responses, min_size=1, max_size=3).map(tuple),
    texts,
    st.integers(0, MAX_SAMPLE_INDEX),
)
some_samples = st.builds(Sample, prompts, responses, st.none() | responses, st.none() | texts, texts)


def media_decoder(store: MediaStore | None = None, max_media: int = 64) -> MediaDecoder:
    return MediaDecoder(store or MediaStore(1 << 24), UrlFetcher((), 1 << 20), max_media)


def decode_row(decode: Any, row: Any, media: dict[str, Media] | None = None) -> Any:
    """Decode a JSON row with uploaded media."""
    store = MediaStore(1 << 24)
    for digest, medium in (media or {}).items():
        store.put(medium.modality, digest, medium.data)
    row = json.loads(json.dumps(row))
    (decoded,) = asyncio.run(media_decoder(store).decode_rows([("row", partial(decode, row, "row"))]))
    if isinstance(decoded, RowFailure):
        raise FieldError(decoded.detail, decoded.field)
    return decoded


@settings(max_examples=60, deadline=None)
@given(some_comparisons)
def test_decoding_inverts_the_encoding_of_comparisons(comparison: Comparison) -> None:
    assert decode_row(decode_comparison, *encode_comparison(comparison)) == comparison


def test_omits_a_sample_index_of_zero() -> None:
    assert "sample_index" not in encode_comparison(Comparison.of("q", "a"))[0]
    assert encode_comparison(Comparison.of("q", "a", sample_index=3))[0]["sample_index"] == 3


@settings(max_examples=60, deadline=None)
@given(some_samples)
def test_decoding_inverts_the_encoding_of_samples(sample: Sample) -> None:
    assert decode_row(decode_sample, *encode_sample(sample)) == sample


def test_references_media_by_digest_and_lists_them_once() -> None:
    comparison = Comparison.of("Which?", (RED, "or", RED), make_video([RED, BLUE], fps=1), images=[BLUE])
    row, media = encode_comparison(comparison)
    assert media == {RED.digest: RED, BLUE.digest: BLUE}
    assert RED.data not in json.dumps(row).encode()
    assert row["responses"][1] == [
        {"type": "video", "video": {"frames": [{"digest": RED.digest}, {"digest": BLUE.digest}], "fps": 1.0}}
    ]


def test_the_client_loads_no_web_framework_and_no_model_library() -> None:
    heavy = {"pydantic", "fastapi", "starlette", "torch", "ray", "transformers"}
    check = f"import flex_judge.reward.client, sys\nprint('HEAVY', *({heavy!r} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["HEAVY"]


def test_accepts_the_common_formats_of_prompts_and_responses() -> None:
    row = {
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?", "image": None}]}],
        "images": [uri(RED)],
        "responses": ["text", ["a", {"type": "text", "text": "b"}], [{"role": "assistant", "content": "c"}], ""],
        "id": None,
    }
    decoded = decode_row(decode_comparison, row)
    assert decoded == Comparison("", (Message("user", (RED, "What?")),), ("text", "ab", "c", ""))


def test_accepts_openai_image_parts() -> None:
    part = {"type": "image_url", "image_url": {"url": uri(RED), "detail": "high"}}
    assert decode_row(decode_sample, {"prompt": "p", "response": [part]}).response == (RED,)


def test_images_without_a_placeholder_precede_the_prompt() -> None:
    decoded = decode_row(decode_sample, {"prompt": "Which?", "response": "r", "images": [uri(RED), uri(BLUE)]})
    assert decoded.prompt == (Message("user", (RED, BLUE, "Which?")),)


def uri(medium: Media) -> str:
    return encode_uri(medium.data)


TEXT = {"type": "text", "text": "t"}
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": 3}, "row.prompt", "expected text or a list of messages, got 3"),
    ({"prompt": None}, "row.prompt", "got null"),
    ({"prompt": []}, "row.prompt", "empty list"),
    ({"prompt": ["text"]}, "row.prompt[0]", "expected a message"),
    ({"prompt": [{"role": "user"}]}, "row.prompt[0].content", "is missing"),
    ({"prompt": [{"role": 3, "content": ""}]}, "row.prompt[0].role", "expected a role such as 'user', got 3"),
    ({"prompt": [{"role": "user", "content": None}]}, "row.prompt[0].content", "is null; expected text"),
    (
        {"prompt": [{"role": "user", "content": [{"type": "image"}]}]},
        "row.prompt[0].content[0]",
        "more parts of type 'image'",
    ),
    (
        {"prompt": [{"role": "user", "content": [{"type": "audio"}]}]},
        "row.prompt[0].content[0]",
        "more parts of type 'audio'",
    ),
    ({"responses": []}, "row.responses", "empty list"),
    ({"responses": "text"}, "row.responses", "expected a list, got a text"),
    ({"responses": [True]}, "row.responses[0]", "got true"),
    ({"responses": ["a", [{"type": "image"}]]}, "row.responses[1][0].image", "is missing"),
    ({"responses": [[{"type": "sculpture"}]]}, "row.responses[0][0]", "'sculpture'"),
    ({"responses": [[{"type": {"a": 1}}]]}, "row.responses[0][0]", "expected a part"),
    ({"responses": [[TEXT | {"image": "x"}]]}, "row.responses[0][0].image", "unknown field"),
    ({"responses": [[{"type": "text", "text": 3}]]}, "row.responses[0][0].text", "got 3"),
    ({"responses": [[{"role": "user", "content": "a"}, "b"]]}, "row.responses[0][0]", "expected a part"),
    ({"imgae": []}, "row.imgae", "did you mean 'image'?"),
    ({"images": "a.png"}, "row.images", "paths are never opened"),
    ({"videos": [3]}, "row.videos[0]", "got a number"),
    ({"tools": "f"}, "row.tools", "expected a list of tool definitions"),
    ({"view": "half"}, "row.view", "expected one of full, final"),
    ({"prompt": [{"role": "user", "content": "a", "weight": 2}]}, "row.prompt[0].weight", "unknown field"),
    ({"id": 3}, "row.id", "expected text"),
    ({"rubric": ["general"]}, "row.rubric", "expected text, got a list"),
    ({"sample_index": -1}, "row.sample_index", "expected a whole number from 0 to 65535"),
    ({"sample_index": 10**400}, "row.sample_index", "expected a whole number from 0 to 65535"),
    ({"sample_index": True}, "row.sample_index", "expected a whole number from 0 to 65535"),
    ({"sample_index": 1.0}, "row.sample_index", "expected a whole number from 0 to 65535"),
]


@pytest.mark.parametrize(("change", "field", "problem"), WRONG, ids=[str(w[0])[:60] for w in WRONG])
def test_error_names_the_invalid_field(change: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(FieldError) as error:
        decode_row(decode_comparison, {"prompt": "p", "responses": ["r"]} | change)
    assert error.value.field == field
    assert str(error.value).startswith(f"{field}: ")
    assert problem in str(error.value)


FRAMES = {"frames": [{"digest": "0" * 64}], "fps": 1}
REFUSED: list[tuple[str, Any, str]] = [
    ("image", "/etc/passwd", ""),
    ("image", "cat.png", ""),
    ("image", "file:///etc/passwd", ""),
    ("image", " data:image/png;base64,AAAA", ""),
    ("image", "https://example.com/a.png", ""),
    ("image", {"path": "/etc/passwd"}, ""),
    ("image", {"bytes": "AAAA"}, ""),
    ("image", {"digest": "0" * 64, "path": "/etc/passwd"}, ""),
    ("image", {"digest": "../../etc/passwd"}, ".digest"),
    ("image", {"digest": "A" * 64}, ".digest"),
    ("image", {"digest": None}, ".digest"),
    ("image", {"url": ["https://example.com"]}, ".url"),
    ("image", {"url": "https://example.com/a.png"}, ""),
    ("image", {"url": "file:///etc/passwd"}, ""),
    ("image", FRAMES, ""),
    ("image", [], ""),
    ("image", True, ""),
    ("image", "data:image/png;base64,!!!!", ""),
    ("image", "data:image/png,AAAA", ""),
    ("image", "data:image/png;base64,AAAA", ""),
    ("video", FRAMES | {"fps": 0}, ".fps"),
    ("video", FRAMES | {"fps": True}, ".fps"),
    ("video", FRAMES | {"fps": 10**400}, ".fps"),
    ("video", FRAMES | {"fps": "2"}, ".fps"),
    ("video", {"frames": FRAMES["frames"]}, ".fps"),
    ("video", {"frames": [], "fps": 1}, ".frames"),
    ("video", {"frames": ["/etc/passwd"], "fps": 1}, ".frames[0]"),
    ("video", {"frames": [FRAMES], "fps": 1}, ".frames[0]"),
    ("audio", "/etc/passwd", ""),
    ("molecule", {"digest": "0" * 64}, ""),
    ("molecule", "C C", ""),
    ("molecule", "", ""),
]


@pytest.mark.parametrize(("kind", "reference", "below"), REFUSED, ids=[f"{r[0]} {str(r[1])[:50]}" for r in REFUSED])
def test_rejects_unknown_forms_of_references(kind: str, reference: Any, below: str) -> None:
    row = {"prompt": "p", "response": [TEXT, {"type": kind, kind: reference}]}
    with pytest.raises(FieldError) as error:
        decode_row(decode_sample, row)
    assert error.value.field == f"row.response[1].{kind}{below}"


def test_rejects_a_digest_of_another_modality() -> None:
    row = {"prompt": "p", "response": [{"type": "audio", "audio": {"digest": RED.digest}}]}
    with pytest.raises(FieldError, match=r"row\.response\[0\]\.audio: expected audio, and this digest is of image"):
        decode_row(decode_sample, row, {RED.digest: RED})


async def test_reports_all_missing_media_together() -> None:
    row, _ = encode_sample(Sample((Message("user", (RED, "?")),), (make_video([RED, BLUE], fps=1),)))
    store = MediaStore(1 << 20)
    with pytest.raises(MissingMediaError) as error:
        await media_decoder(store).decode_rows([("row", partial(decode_sample, row, "row"))])
    assert set(error.value.digests) == {RED.digest, BLUE.digest}
    for medium in (RED, BLUE):
        store.put(Modality.IMAGE, medium.digest, medium.data)
    await media_decoder(store).decode_rows([("row", partial(decode_sample, row, "row"))])


async def test_reads_an_image_of_many_rows_once() -> None:
    row = {"prompt": "p", "response": "r", "images": [uri(RED)]}
    decoded = await media_decoder().decode_rows(
        [(f"row {i}", partial(decode_sample, row, f"row {i}")) for i in range(3)]
    )
    assert len({id(sample.prompt[0].content[0].data) for sample in decoded}) == 1
