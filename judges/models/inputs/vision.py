"""Image scaling for vision models: sides in whole patches, within pixel limits.

Uses the function of qwen-vl-utils that holds the model's rule for the size of images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flex_judge.judges.errors import MediaError
from flex_judge.judges.media.files import convert_decoder_errors, open_image, to_upright_rgb
from flex_judge.judges.media.memory import DECODING
from flex_judge.judges.media.prepared import MediaLimits
from flex_judge.judges.media.types import Media

if TYPE_CHECKING:
    from PIL import Image


def scale_image(media: Media, patch: int, limits: MediaLimits) -> Image.Image:
    """Decode an image into upright RGB and scale its sides to multiples of `patch`."""
    image = decode_image(media)
    return resize_image(image, *fit_size(image.size, patch, limits.image_max_pixels, media.name))


def decode_image(media: Media) -> Image.Image:
    """Decode an image into upright RGB."""
    with convert_decoder_errors(media.name, media.modality):
        opened = open_image(media.data, media.name)
        # Pillow stores 4 bytes a pixel. An opaque image is decoded and perhaps converted; blending makes more copies.
        copies = 5 if opened.has_transparency_data else 2
        with DECODING.reserve(opened.width * opened.height * 4 * copies):
            return to_upright_rgb(opened, media.name, in_place=True)


def fit_size(size: tuple[int, int], patch: int, max_pixels: int | None, name: str) -> tuple[int, int]:
    """Compute the size to scale an image to, in proportion.

    Args:
        size: width and height of the image.
        patch: patch size of the model in pixels.
        max_pixels: maximum number of pixels; None for that of the model.
        name: name of the image for error messages.

    Returns:
        Width and height: multiples of `patch` with a product of at most `max_pixels`.

    Raises:
        MediaError: the image is too elongated for the model.
    """
    from qwen_vl_utils.vision_process import IMAGE_MAX_TOKEN_NUM, IMAGE_MIN_TOKEN_NUM, MAX_RATIO, smart_resize

    width, height = size
    if max(size) > MAX_RATIO * min(size):
        raise MediaError(
            f"{name}: {width}x{height} is too elongated; the model takes up to {MAX_RATIO} to 1, so crop it"
        )
    ceiling = max(IMAGE_MAX_TOKEN_NUM * patch**2 if max_pixels is None else max_pixels, patch**2)
    floor = min(IMAGE_MIN_TOKEN_NUM * patch**2, ceiling)
    height, width = smart_resize(height, width, factor=patch, min_pixels=floor, max_pixels=ceiling)
    # smart_resize can round the short side of a long image down to 0. The short side then gets one patch, and the long
    # side is limited to the patches that are left.
    longest = ceiling // patch**2 * patch
    if min(width, height) <= patch:
        return max(min(width, longest), patch), max(min(height, longest), patch)
    return width, height


def resize_image(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale an image to a size."""
    from PIL import Image

    return image.resize((width, height), Image.Resampling.BICUBIC)
