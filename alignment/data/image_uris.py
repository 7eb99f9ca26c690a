"""Images in rows of data sets: base64 data URIs that the loaders of all trainers can open."""

from __future__ import annotations

import base64
import io
import re

from flex_judge.judges.media.opening import make_image
from flex_judge.judges.media.types import Media

MIME_SUBTYPES = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "GIF": "gif"}
"""Pillow format -> MIME subtype, for formats that Pillow and torchvision both open. Others are converted to PNG."""
_FRAGILE_SLASH = re.compile(r"/(?=/|\Z)")


def encode_data_uri(media: Media) -> str:
    """Encode an image as a base64 data URI, without re-encoding formats that every loader opens.

    The feature `Image` of `datasets` treats the URI as a path: it would merge double slashes and drop a trailing one.
    So a line break follows each such slash; base64 decoders ignore it.
    """
    from PIL import Image

    with Image.open(io.BytesIO(media.data)) as image:
        image_format, data = image.format or "", media.data
        if image_format not in MIME_SUBTYPES:
            image_format, data = "PNG", make_image(image).data
    text = _FRAGILE_SLASH.sub("/\n", base64.b64encode(data).decode())
    return f"data:image/{MIME_SUBTYPES[image_format]};base64,{text}"


def decode_data_uri(uri: str) -> bytes:
    """Decode the bytes of a data URI from `encode_data_uri`."""
    return base64.b64decode(uri.partition(",")[2])
