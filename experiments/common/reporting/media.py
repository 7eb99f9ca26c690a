"""Media on pages: small pictures and short sounds as data URIs, everything else by its name."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flex_judge.experiments.common.reporting.blocks import ShownPart, shorten_line
from flex_judge.judges.errors import MediaError
from flex_judge.judges.media.files import convert_decoder_errors, open_image, to_upright_rgb

THUMBNAIL_PIXELS = 320
"""Maximum width and height of a picture on a page, in pixels."""
MAX_MEDIA_BYTES = 3_000_000
"""Maximum size of all media on a page."""
MAX_SOUND_BYTES = 300_000
MAX_PICTURE_FILE_BYTES = 30_000_000
SOUND_TYPES = {".wav": "wav", ".mp3": "mpeg", ".flac": "flac", ".ogg": "ogg", ".m4a": "mp4"}
"""Ending of a sound file -> its subtype of `audio/`."""


class MediaShelf:
    """Media of a page, which are embedded until their total size reaches a limit.

    Args:
        folders: folders that relative file names may refer to.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._left = MAX_MEDIA_BYTES

    def show_medium(self, part: Mapping[str, Any]) -> ShownPart:
        """Show a medium that a row of judgments names, see `flex_judge.judges.io.comparison_rows`."""
        kind = str(part.get("type", "medium"))
        if "smiles" in part:
            return ShownPart(label=f"molecule: {shorten_line(str(part['smiles']), 300)}")
        name = part.get("file")
        if not isinstance(name, str):
            digest = str(part.get("digest", ""))[:12]
            return ShownPart(label=f"{kind}{f', content {digest}' if digest else ''} (not in a file)")
        label = shorten_line(f"{kind}: {name}", 300)
        path = next((p for p in (Path(name), *(folder / name for folder in self._folders)) if p.is_file()), None)
        if path is None:
            return ShownPart(label=f"{label} (the file is missing)")
        try:
            data_uri = self._encode_medium(kind, path)
        except (MediaError, OSError):
            return ShownPart(label=f"{label} (cannot be shown)")
        if kind == "audio":
            return ShownPart(audio=data_uri, label=label)
        return ShownPart(image=data_uri, label=label)

    def _encode_medium(self, kind: str, path: Path) -> str:
        """Encode a medium as a data URI; empty if it has no place on the page."""
        size = path.stat().st_size
        if kind == "image" and size <= MAX_PICTURE_FILE_BYTES:
            data, media_type = encode_thumbnail(path.read_bytes(), path.name), "image/jpeg"
        elif kind == "audio" and size <= MAX_SOUND_BYTES and path.suffix.lower() in SOUND_TYPES:
            data, media_type = path.read_bytes(), f"audio/{SOUND_TYPES[path.suffix.lower()]}"
        else:
            return ""
        if len(data) > self._left:
            return ""
        self._left -= len(data)
        return encode_data_uri(data, media_type)


def encode_data_uri(data: bytes, media_type: str) -> str:
    """Encode the content of a file as a data URI, which a page can show without another file."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def encode_thumbnail(data: bytes, name: str) -> bytes:
    """Encode a small JPEG of an image.

    Raises:
        MediaError: the image cannot be read.
    """
    with convert_decoder_errors(name, "image"):
        picture: Any = to_upright_rgb(open_image(data, name), name)
        picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
        return buffer.getvalue()
