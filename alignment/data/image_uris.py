"""Images as rows hold them: data URIs that any trainer's loader opens."""

from __future__ import annotations

import base64
import io
import re

from flex_judge.judges.media.opening import make_image
from flex_judge.judges.media.types import Media

FORMS = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "GIF": "gif"}
"""Kinds of files that Pillow and torchvision both open -> the names of their types. Others are turned into PNG."""
_NOT_IN_PATHS = re.compile(r"/(?=/|\Z)")


def encode_data_uri(media: Media) -> str:
    """The base64 data URI of an image, of its file as it is where every loader opens that kind.

    The feature Image of `datasets` treats it as a path, in which it would make one of two slashes and drop a last one.
    So a line ends after such a slash, which base64 allows anywhere.
    """
    from PIL import Image

    with Image.open(io.BytesIO(media.data)) as opened:
        form, data = opened.format or "", media.data
        if form not in FORMS:
            form, data = "PNG", make_image(opened).data
    text = _NOT_IN_PATHS.sub("/\n", base64.b64encode(data).decode())
    return f"data:image/{FORMS[form]};base64,{text}"


def decode_data_uri(uri: str) -> bytes:
    """What a data URI of ours holds."""
    return base64.b64decode(uri.partition(",")[2])
