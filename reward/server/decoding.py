"""Decode request JSON to comparisons and samples, and resolve rubric names.

`flex_judge.reward.client.encoding` is the inverse. Requests are untrusted: each invalid value is reported with its
field, and no string is ever used as a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.judges.conversations.columns import PROMPT_COLUMNS, read_row_prompt
from flex_judge.judges.conversations.messages import read_view
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.errors import UsageError, suggest_name
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.rubrics import ASK_OPERATOR, INLINE, list_rubrics, load_rubric, shorten_inline_name
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import MAX_SAMPLE_INDEX, Comparison
from flex_judge.reward.server.errors import FieldError
from flex_judge.reward.types import Sample

ResolveMedia = Callable[[Any, Modality, str], Media]
"""Function that resolves a media reference: (reference, modality, field) -> medium."""
MAX_FPS = 1_000_000
MAX_INLINE_RUBRICS = 256
"""Maximum number of different rubrics that requests may bring."""
REFERENCE_FORMS = 'a base64 data URI, {"digest": ...} of an upload, or {"url": ...}; paths are never opened'


@dataclass(frozen=True)
class MediaReference:
    """Syntactically valid reference to a medium in a request."""

    modality: Modality
    kind: str
    """`digest`, `data` (a data URI), `url`, `smiles`, or `frames`."""
    value: str | tuple[MediaReference, ...]
    """The digest, data URI, URL or SMILES string; the images for `frames`."""
    fps: float | None = None
    """Frames per second of `frames`."""


def decode_comparison(row: Any, field: str, media: ResolveMedia) -> Comparison:
    """Decode a row of `comparisons`. Its rubric is not looked up.

    Args:
        row: `{"prompt", "responses", "view"?, "rubric"?, "id"?, "sample_index"?}` and PROMPT_COLUMNS (media and
            tools), which are optional.
        field: field of the row in the request, for error messages.
        media: called for each media reference, in the order of the row.

    Raises:
        UsageError: a field is missing, unknown or invalid; the error has the `field`.
    """
    optional = (*PROMPT_COLUMNS, "view", "rubric", "id", "sample_index")
    row = check_fields(row, field, ("prompt", "responses"), optional)
    responses = expect_list(row["responses"], f"{field}.responses")
    if not responses:
        raise FieldError.at_field(f"{field}.responses", "expected one response or more, got an empty list")
    reader, view = _make_reader(media), read_view(row.get("view", "full"), f"{field}.view")
    prompt = read_row_prompt(reader, row, prefix=f"{field}.")
    contents = [reader.read_response(r, view, f"{field}.responses[{i}]") for i, r in enumerate(responses)]
    return Comparison(
        expect_text(row.get("id", ""), f"{field}.id"),
        prompt,
        tuple(contents),
        expect_text(row.get("rubric", "general"), f"{field}.rubric"),
        _expect_sample_index(row.get("sample_index", 0), f"{field}.sample_index"),
    )


def decode_sample(row: Any, field: str, media: ResolveMedia) -> Sample:
    """Decode a row of `samples`: `{"prompt", "response", "baseline"?, "group"?, "problem"?, "view"?, "images"?, ...}`.

    Arguments and errors are the same as for `decode_comparison`.
    """
    optional = (*PROMPT_COLUMNS, "view", "baseline", "group", "problem")
    row = check_fields(row, field, ("prompt", "response"), optional)
    reader, view = _make_reader(media), read_view(row.get("view", "full"), f"{field}.view")
    return Sample(
        read_row_prompt(reader, row, prefix=f"{field}."),
        reader.read_response(row["response"], view, f"{field}.response"),
        reader.read_response(row["baseline"], view, f"{field}.baseline") if "baseline" in row else None,
        expect_text(row["group"], f"{field}.group") if "group" in row else None,
        expect_text(row.get("problem", ""), f"{field}.problem"),
    )


def _make_reader(media: ResolveMedia) -> ConversationReader:
    """Make a reader of untrusted rows: unknown fields are errors, and no string is a path."""

    def open_media(modality: Modality, source: Any, field: str, **options: Any) -> Media:
        if isinstance(source, str) and source.startswith(("https://", "http://")):
            source = {"url": source}
        if modality == Modality.VIDEO and isinstance(source, list):
            source, options = {"frames": source, **options}, {}
        for name in options:
            raise FieldError.at_field(f"{field}.{name}", "is for frames or samples, and this is a file; leave it out")
        return media(source, modality, field)

    return ConversationReader(open_media, strict=True)


def decode_reference(value: Any, modality: Modality, field: str) -> MediaReference:
    """Decode a media reference.

    Args:
        value: a data URI, an object with `digest`, `url`, or `frames` and `fps`, or a SMILES string.
        modality: expected modality.
        field: field of the reference in the request, for error messages.

    Raises:
        FieldError: the value is no valid reference; paths never are.
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
                f"{field}.digest", f"expected SHA-256 as 64 lower-case hex digits, got {digest[:80]!r}"
            )
        return MediaReference(modality, "digest", digest)
    if set(value) == {"url"}:
        return MediaReference(modality, "url", expect_text(value["url"], f"{field}.url"))
    raise FieldError.at_field(
        field, f"expected {REFERENCE_FORMS}; got an object with {', '.join(map(repr, value)) or 'nothing'}"[:400]
    )


def check_fields(row: Any, field: str, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """Check the fields of an object and drop optional fields that are null.

    Args:
        row: the object.
        field: field of the object in the request, for error messages.
        required: names of required fields.
        optional: names of optional fields.

    Raises:
        FieldError: the row is no object, or a field is missing or unknown. Unknown fields are errors because a
            misspelled name must not drop images silently.
    """
    if not isinstance(row, Mapping):
        raise FieldError.at_field(field, f"expected an object, got {_name_json_type(row)}")
    names = (*required, *optional)
    for name in row:
        if name not in names:
            raise FieldError.at_field(f"{field}.{name:.60}", f"unknown field; {suggest_name(name, names)}")
    for name in required:
        if name not in row:
            raise FieldError.at_field(f"{field}.{name}", "is missing")
    return {name: value for name, value in row.items() if value is not None or name in required}


def expect_text(value: Any, field: str) -> str:
    """Return a string; raise FieldError for any other value."""
    if not isinstance(value, str):
        raise FieldError.at_field(field, f"expected text, got {_name_json_type(value)}")
    return value


def expect_list(value: Any, field: str) -> list[Any]:
    """Return a list; raise FieldError for any other value."""
    if not isinstance(value, list):
        raise FieldError.at_field(field, f"expected a list, got {_name_json_type(value)}")
    return value


def _expect_sample_index(value: Any, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SAMPLE_INDEX:
        raise FieldError.at_field(field, f"expected a whole number from 0 to {MAX_SAMPLE_INDEX}")
    return value


def _name_json_type(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


class RubricRegistry:
    """Registry of the rubrics that requests may name; a name is never used as a path."""

    def __init__(self, files: Sequence[str] = (), allow_inline: bool = False) -> None:
        """Load the rubric files of the operator.

        Args:
            files: paths of TOML files; requests name a rubric by its file name without the suffix.
            allow_inline: whether requests may bring rubrics of their own, see `make_inline_name`.

        Raises:
            UsageError: a file is missing or invalid, or two rubrics have the same name.
        """
        self._presets = list_rubrics()
        self._allow_inline = allow_inline
        self._rubrics: dict[str, Rubric] = {}
        for file in files:
            if not file.endswith(".toml"):
                raise UsageError(f"rubric {file!r}: expected a TOML file; presets are always available")
            name = Path(file).stem
            if name in self._presets or name in self._rubrics:
                raise UsageError(f"rubric {file!r}: a rubric {name!r} exists already; rename the file")
            self._rubrics[name] = load_rubric(file)

    def list_names(self) -> list[str]:
        """List the names of all rubrics, sorted."""
        return sorted({*self._presets, *self._rubrics})

    def find_rubric(self, name: str, responses: int | None = None, field: str = "rubric") -> Rubric:
        """Find a rubric by the name in a request.

        Args:
            name: name of a preset or rubric file. Judges look up the `name` of the result, which may differ.
            responses: number of responses that the rubric must support; None checks nothing.
            field: field of the name in the request, for error messages.

        Raises:
            FieldError: the rubric does not exist, or does not support that number of responses.
        """
        if name not in self._rubrics and name.startswith(INLINE):
            self._rubrics[name] = self._load_inline_rubric(name, field)
        if name not in self._rubrics:
            if name not in self._presets:
                hint = suggest_name(name[:60], self.list_names())
                raise FieldError.at_field(field, f"rubric {name[:60]!r} does not exist; {hint}")
            self._rubrics[name] = load_rubric(name)
        rubric = self._rubrics[name]
        if responses is not None:
            try:
                rubric.check_response_count(responses)
            except UsageError as e:
                shown = repr(shorten_inline_name(name))
                raise FieldError.at_field(field, str(e).replace(repr(rubric.name), shown)) from e
        return rubric

    def _load_inline_rubric(self, name: str, field: str) -> Rubric:
        """Load a rubric that a request brings; judges keep rubrics, so their number is limited."""
        if not self._allow_inline:
            raise FieldError.at_field(field, f"the service takes no rubrics from requests; {ASK_OPERATOR}")
        if sum(known.startswith(INLINE) for known in self._rubrics) >= MAX_INLINE_RUBRICS:
            raise FieldError.at_field(
                field,
                f"requests have brought {MAX_INLINE_RUBRICS} different rubrics, the most until the service restarts; "
                "have its operator register this one with --allow-rubric",
            )
        try:
            return load_rubric(name)
        except UsageError as e:
            raise FieldError.at_field(field, str(e)) from e
