"""What a person sees of an item on the report page: its texts, and its images as small copies in the run's folder."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from flex_judge.experiments.benchmarks.items import Item
from flex_judge.judges.media.files import opened_image, reading, upright_rgb
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.types import Content, parts_of

SIDE = 320
"""Of a copy, in pixels, at most."""
PICTURES = "pictures"


def shown_parts(item: Item, out: Path | None) -> tuple[list[dict[str, str]], list[list[dict[str, str]]]]:
    """The parts of an item's question and of each of its responses: `{"text"}`, or `{"image"}` with the name of a file
    in the run's folder, or `{"medium"}` with what stands for one that a page does not show.

    Raises:
        MediaError: a medium cannot be read.
    """
    comparison = item.row.comparison()
    prompt = [part for message in comparison.prompt for part in _parts(message.content, out)]
    return prompt, [_parts(response, out) for response in comparison.responses]


def _parts(content: Content, out: Path | None) -> list[dict[str, str]]:
    return [{"text": part} if isinstance(part, str) else _medium(part, out) for part in parts_of(content)]


def _medium(medium: Media, out: Path | None) -> dict[str, str]:
    frame = medium.frames[0] if medium.frames else medium
    if frame.modality != Modality.IMAGE or out is None:
        return {"medium": f"{medium.modality}: {Path(medium.name).name}"}
    name = f"{PICTURES}/{hashlib.sha256(frame.data).hexdigest()[:16]}.jpg"
    if not (out / name).exists():
        (out / PICTURES).mkdir(exist_ok=True)
        (out / name).write_bytes(_small(frame))
    return {"image": name}


def _small(medium: Media) -> bytes:
    with reading(medium.name, "image"):
        picture: Any = upright_rgb(opened_image(medium.data, medium.name), medium.name)
        picture.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
        return buffer.getvalue()
