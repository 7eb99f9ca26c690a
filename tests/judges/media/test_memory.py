"""Memory for decoded media is bounded, and decoding makes no needless copies."""

from __future__ import annotations

import io
import threading
import time

import numpy as np
import pytest
from clips import film, noise, picture
from PIL import Image

from flex_judge.judges.errors import MediaError
from flex_judge.judges.media import memory
from flex_judge.judges.media.files import to_upright_rgb
from flex_judge.judges.media.memory import DecodingBudget
from flex_judge.judges.media.opening import make_image, make_video
from flex_judge.judges.media.prepared import MediaLimits
from flex_judge.judges.models.inputs import video, vision
from flex_judge.judges.models.inputs.preparation import prepare_all_media
from flex_judge.judges.models.inputs.video import sample_video
from flex_judge.judges.models.profiles import CHAT


def test_work_beyond_the_budget_waits() -> None:
    budget = DecodingBudget(100)
    running: list[int] = []
    most: list[int] = []

    def work(size: int) -> None:
        with budget.reserve(size):
            running.append(size)
            most.append(sum(running))
            time.sleep(0.01)
            running.remove(size)

    sizes = [60, 60, 30, 30, 30, 30, 100, 10, 10] * 3
    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(most) == len(sizes)
    assert max(most) <= 100


def test_work_larger_than_the_budget_runs_alone() -> None:
    budget = DecodingBudget(10)
    with budget.reserve(1000):
        waiting = threading.Thread(target=lambda: budget.reserve(1).__enter__())
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()


def test_decoding_an_image_reserves_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Recording(DecodingBudget):
        def reserve(self, size: int):  # type: ignore[no-untyped-def]
            sizes.append(size)
            return super().reserve(size)

    monkeypatch.setattr(vision, "DECODING", Recording(1 << 30))
    vision.decode_image(make_image(picture(noise(100, 200))))
    assert sizes == [100 * 200 * 4 * 2]


def test_opening_and_decoding_a_video_reserve_memory_for_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Recording(DecodingBudget):
        def reserve(self, size: int):  # type: ignore[no-untyped-def]
            sizes.append(size)
            return super().reserve(size)

    monkeypatch.setattr(memory, "DECODING", Recording(1 << 30))
    media = make_video(film(range(8), rate=4, size=(96, 64)))
    frames = sample_video(media, 28, MediaLimits(video_fps=4.0)).frames
    decoder = 64 * 96 * memory.VIDEO_BYTES_PER_PIXEL
    assert sizes == [decoder, decoder + 2 * frames.nbytes]


@pytest.mark.parametrize("is_file", [True, False])
def test_the_sampled_frames_of_a_video_are_bounded_before_they_are_decoded(
    is_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    film_file = film(range(8), rate=4, size=(96, 64))
    media = make_video(film_file) if is_file else make_video([noise(64, 96)] * 8, fps=4.0)
    limits = MediaLimits(video_fps=4.0)
    size = sample_video(media, 28, limits).frames.nbytes
    monkeypatch.setattr(memory, "MAX_PREPARED_BYTES", size)
    sample_video(media, 28, limits)
    monkeypatch.setattr(memory, "MAX_PREPARED_BYTES", size - 1)
    decoded: list[int] = []
    monkeypatch.setattr(video, "resize_image", lambda *_: decoded.append(1))
    with pytest.raises(MediaError, match=r"sampled frames take .* MiB .* lower video_max_frames"):
        sample_video(media, 28, limits)
    assert not decoded


def test_only_scaled_frames_of_a_list_of_images_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame is scaled before the next one is decoded."""
    steps: list[str] = []
    decode, resize = video.decode_image, video.resize_image
    monkeypatch.setattr(video, "decode_image", lambda image: steps.append("decode") or decode(image))
    monkeypatch.setattr(video, "resize_image", lambda *arguments: steps.append("scale") or resize(*arguments))
    sample_video(make_video([noise(64, 96)] * 4, fps=2.0), 28, MediaLimits())
    assert steps == ["decode", "scale"] * 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "LA", "I;16", "CMYK"])
@pytest.mark.parametrize("orientation", [None, 1, 6])
def test_decoding_in_place_gives_the_same_pixels(mode: str, orientation: int | None) -> None:
    original = Image.fromarray(noise(20, 30)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        original = Image.fromarray(np.asarray(original).astype(np.uint16) << 8)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    encoded = io.BytesIO()
    original.save(encoded, "TIFF" if mode in ("CMYK", "I;16") else "PNG", exif=exif)
    copied, changed = (
        to_upright_rgb(Image.open(io.BytesIO(encoded.getvalue())), "a", in_place=in_place) for in_place in (False, True)
    )
    assert copied.mode == changed.mode == "RGB"
    assert copied.info == changed.info == {}
    assert np.array_equal(np.asarray(copied), np.asarray(changed))


def test_a_given_image_is_not_changed() -> None:
    image = Image.fromarray(noise(4, 4))
    image.info["comment"] = "mine"
    make_image(image)
    assert image.info == {"comment": "mine"}


def test_the_media_of_one_prompt_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    media = [make_image(picture(noise(56, 56 + 28 * i))) for i in range(8)]
    assert len(prepare_all_media(media, CHAT, MediaLimits())) == 8
    monkeypatch.setattr(memory, "MAX_PREPARED_BYTES", 56 * 56 * 3 * 3)
    with pytest.raises(MediaError, match="scale them down, or send fewer"):
        prepare_all_media(media, CHAT, MediaLimits())
