"""Decode request JSON to comparisons and samples, and resolve rubric names.

`flex_judge.reward.client.encoding` is the other direction. Requests are untrusted: every wrong value is reported by its
field, and no text is ever taken for a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.rubrics import list_rubrics, load_rubric
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import MAX_SAMPLE_INDEX, Comparison, Message, parse_response
from flex_judge.reward.server.errors import FieldError
from flex_judge.reward.types import Sample

Take = Callable[[Any, Modality, str], Media]
"""What gives the medium that a reference stands for: (reference, modality, field) -> medium."""
MAX_FPS = 1_000_000
REFERENCE_FORMS = 'a base64 data URI, {"digest": ...} of what was uploaded, or {"url": ...}; paths are never opened'


@dataclass(frozen=True)
class MediaReference:
    """What stands for a medium on the wire, its form checked."""

    modality: Modality
    kind: str
    """`digest`, `data` (a data URI), `url`, `smiles`, or `frames`."""
    value: str | tuple[MediaReference, ...]
    """The text, or of `frames` the images."""
    fps: float | None = None
    """Frames per second of `frames`."""


def decode_comparison(row: Any, field: str, media: Take) -> Comparison:
    """A row of `comparisons`. Its rubric is not looked up.

    Args:
        row: `{"prompt", "responses", "images"?, "rubric"?, "id"?, "sample_index"?}`.
        field: where it stands in the request, for messages.
        media: called for every medium, in the order of the row.

    Raises:
        FieldError: a field is missing, unknown or wrong.
    """
    row = check_fields(row, field, ("prompt", "responses"), ("images", "rubric", "id", "sample_index"))
    responses = expect_list(row["responses"], f"{field}.responses")
    if not responses:
        raise FieldError.at_field(f"{field}.responses", "expected one response or more, got an empty list")
    prompt = _decode_prompt(row, field, media)
    return Comparison(
        expect_text(row.get("id", ""), f"{field}.id"),
        prompt,
        tuple(_decode_response(r, f"{field}.responses[{i}]", media) for i, r in enumerate(responses)),
        expect_text(row.get("rubric", "general"), f"{field}.rubric"),
        _expect_sample_index(row.get("sample_index", 0), f"{field}.draw"),
    )


def decode_sample(row: Any, field: str, media: Take) -> Sample:
    """A row of `samples`, `{"prompt", "response", "baseline"?, "group"?, "images"?}`. As `comparison_from_json`."""
    row = check_fields(row, field, ("prompt", "response"), ("baseline", "group", "images"))
    return Sample(
        _decode_prompt(row, field, media),
        _decode_response(row["response"], f"{field}.response", media),
        _decode_response(row["baseline"], f"{field}.baseline", media) if "baseline" in row else None,
        expect_text(row["group"], f"{field}.group") if "group" in row else None,
    )


def decode_reference(value: Any, modality: Modality, field: str) -> MediaReference:
    """The reference that JSON holds for a medium.

    Raises:
        FieldError: it is none, a path for instance.
    """
    if modality == Modality.MOLECULE:
        return MediaReference(modality, "smiles", expect_text(value, field))
    if isinstance(value, str):
        if value.startswith("data:"):
            return MediaReference(modality, "data", value)
        raise FieldError.at_field(field, f"expected {REFERENCE_FORMS}; got {value[:60]!r}")
    if not isinstance(value, Mapping):
        raise FieldError.at_field(field, f"expected {REFERENCE_FORMS}; got {_name_json_type(value)}")
    if modality == Modality.VIDEO and "frames" in value:
        row = check_fields(value, field, ("frames", "fps"))
        frames = expect_list(row["frames"], f"{field}.frames")
        fps = row["fps"]
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= MAX_FPS:
            raise FieldError.at_field(f"{field}.fps", f"expected frames per second, above 0 and at most {MAX_FPS}")
        if not frames:
            raise FieldError.at_field(f"{field}.frames", "expected one image or more, got an empty list")
        images = [decode_reference(frame, Modality.IMAGE, f"{field}.frames[{i}]") for i, frame in enumerate(frames)]
        return MediaReference(modality, "frames", tuple(images), float(fps))
    if set(value) == {"digest"}:
        digest = expect_text(value["digest"], f"{field}.digest")
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise FieldError.at_field(
                f"{field}.digest", f"expected SHA-256 as 64 small hex digits, got {digest[:80]!r}"
            )
        return MediaReference(modality, "digest", digest)
    if set(value) == {"url"}:
        return MediaReference(modality, "url", expect_text(value["url"], f"{field}.url"))
    raise FieldError.at_field(
        field, f"expected {REFERENCE_FORMS}; got an object with {', '.join(map(repr, value)) or 'nothing'}"[:400]
    )


def check_fields(row: Any, field: str, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """An object's fields, those left out that are null and not needed.

    Raises:
        FieldError: it is no object, or a field is missing or unknown: a slip must not drop the images in silence.
    """
    if not isinstance(row, Mapping):
        raise FieldError.at_field(field, f"expected an object, got {_name_json_type(row)}")
    known = (*needed, *optional)
    for name in row:
        if name not in known:
            raise FieldError.at_field(f"{field}.{name:.60}", f"unknown field; {suggest_name(name, known)}")
    for name in needed:
        if name not in row:
            raise FieldError.at_field(f"{field}.{name}", "is missing")
    return {name: value for name, value in row.items() if value is not None or name in needed}


def suggest_name(name: str, known: Sequence[str]) -> str:
    """What an unknown field may have been meant to be."""
    near = get_close_matches(name.lower(), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def expect_text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise FieldError.at_field(field, f"expected text, got {_name_json_type(value)}")
    return value


def expect_list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise FieldError.at_field(field, f"expected a list, got {_name_json_type(value)}")
    return value


def _expect_sample_index(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SAMPLE_INDEX:
        raise FieldError.at_field(field, f"expected a whole number from 0 to {MAX_SAMPLE_INDEX}")
    return value


def _decode_prompt(row: Mapping[str, Any], field: str, media: Take) -> tuple[Message, ...]:
    """The prompt with the images that belong to it."""
    images = [
        media(image, Modality.IMAGE, f"{field}.images[{i}]")
        for i, image in enumerate(expect_list(row.get("images", []), f"{field}.images"))
    ]
    field = f"{field}.prompt"
    prompt: Any = row["prompt"]
    if isinstance(prompt, list):
        prompt = [
            _decode_message(message, f"{field}[{i}]", media, placeholders=True) for i, message in enumerate(prompt)
        ]
    elif not isinstance(prompt, str):
        raise FieldError.at_field(field, f"expected text or a list of messages, got {_name_json_type(prompt)}")
    try:
        return Comparison.of(prompt, images=images).prompt
    except UsageError as e:
        raise FieldError.at_field(field, str(e).removeprefix("prompt: ")) from e


def _decode_response(value: Any, field: str, media: Take) -> Any:
    """The content of a response: text, parts, or messages."""
    if isinstance(value, list) and value and all(isinstance(m, Mapping) and "role" in m for m in value):
        return parse_response([_decode_message(message, f"{field}[{i}]", media) for i, message in enumerate(value)])
    return parse_response(_decode_content(value, field, media))


def _decode_message(message: Any, field: str, media: Take, placeholders: bool = False) -> dict[str, Any]:
    # What else a message may carry (a name, tool calls) is no part of what is judged.
    if not isinstance(message, Mapping):
        raise FieldError.at_field(
            field, f"expected a message with 'role' and 'content', got {_name_json_type(message)}"
        )
    for name in ("role", "content"):
        if name not in message:
            raise FieldError.at_field(f"{field}.{name}", "is missing")
    content = _decode_content(message["content"], f"{field}.content", media, placeholders)
    return {"role": expect_text(message["role"], f"{field}.role"), "content": content}


def _decode_content(value: Any, field: str, media: Take, placeholders: bool = False) -> str | list[Any]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise FieldError.at_field(field, f"expected text or a list of parts, got {_name_json_type(value)}")
    return [_decode_part(part, f"{field}[{i}]", media, placeholders) for i, part in enumerate(value)]


def _decode_part(part: Any, field: str, media: Take, placeholders: bool) -> Any:
    if isinstance(part, str):
        return part
    # Tables of parts hold null where a part of that type has no such field.
    part = {n: v for n, v in part.items() if v is not None} if isinstance(part, Mapping) else part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == Modality.MOLECULE and "smiles" in part:
        part = {("molecule" if name == "smiles" else name): value for name, value in part.items()}
    if kind == "image_url":  # OpenAI's form
        where = f"{field}.image_url"
        inner = check_fields(check_fields(part, field, ("type", kind))[kind], where, ("url",), ("detail",))
        url = expect_text(inner["url"], f"{where}.url")
        return media(url if url.startswith("data:") else {"url": url}, Modality.IMAGE, f"{where}.url")
    if isinstance(kind, str) and kind in ("text", *Modality):
        row = check_fields(part, field, ("type",), (kind,))
        if kind == "text":
            return expect_text(row.get(kind), f"{field}.{kind}")
        if kind in row:
            return media(row[kind], Modality(kind), f"{field}.{kind}")
        if kind == Modality.IMAGE and placeholders:
            return {"type": "image"}  # takes the next of `images`
        raise FieldError.at_field(f"{field}.{kind}", "is missing")
    kinds = ", ".join(["text", "image_url", *Modality])
    raise FieldError.at_field(field, f"expected a part with a type of {kinds}, got {_describe_part(part)}")


def _name_json_type(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _describe_part(value: Any) -> str:
    return f"{value.get('type')!r:.60} as its type" if isinstance(value, Mapping) else _name_json_type(value)


class RubricRegistry:
    """Finds rubrics by name; a name is never taken for a path."""

    def __init__(self, files: Sequence[str] = ()) -> None:
        """Args:
            files: rubrics of the operator's; a request calls one by its file's name without the ending.

        Raises:
            UsageError: a file is wrong or not there, or two rubrics have the same name.
        """
        self._presets = list_rubrics()
        self._known: dict[str, Rubric] = {}
        for file in files:
            if not file.endswith(".toml"):
                problem = "expected the path of a TOML file; those of the project need no mention"
                raise UsageError(f"rubric {file!r}: {problem}")
            name = Path(file).stem
            if name in self._presets or name in self._known:
                raise UsageError(f"rubric {file!r}: there is a rubric {name!r} already; give the file another name")
            self._known[name] = load_rubric(file)

    def find_rubric(self, name: str, responses: int | None = None, field: str = "rubric") -> Rubric:
        """The rubric that a request names; its own `name` is what a judge finds it by.

        Args:
            responses: how many it is to be used for; None leaves that open.
            field: where the name stands in the request.

        Raises:
            FieldError: there is none, or it is not made for so many.
        """
        if name not in self._known:
            if name not in self._presets:
                hint = suggest_name(name[:60], sorted({*self._presets, *self._known}))
                raise FieldError.at_field(field, f"rubric {name[:60]!r} does not exist; {hint}")
            self._known[name] = load_rubric(name)
        rubric = self._known[name]
        if responses is not None:
            try:
                rubric.check_response_count(responses)
            except UsageError as e:
                raise FieldError.at_field(field, str(e).replace(repr(rubric.name), repr(name))) from e
        return rubric
