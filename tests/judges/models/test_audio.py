"""Audio decoding: gaps and late starts, joined and damaged files, wrong lengths, and changes of the sample rate."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
from clips import damage_packets, sound, timed_sound, tone, wav

from flex_judge.judges.errors import MediaError
from flex_judge.judges.media.headers import remove_id3_tags
from flex_judge.judges.media.opening import make_audio
from flex_judge.judges.media.prepared import MediaLimits, PreparedMedia
from flex_judge.judges.models.inputs.preparation import prepare_media
from flex_judge.judges.models.profiles import PROFILES

OMNI = PROFILES["flex-omni"]
SECOND = tone(1.0, 48_000)


def prepare(data: bytes, **limits: Any) -> PreparedMedia:
    return prepare_media(make_audio(data), OMNI, MediaLimits(**limits).fill_defaults(OMNI.limits))


def measure_loudness(prepared: PreparedMedia) -> list[float]:
    """Compute the root mean square of each half second but the last, which may be incomplete."""
    count = prepared.length // 8000
    blocks = prepared.value[: count * 8000].astype(np.float64).reshape(count, 8000)
    return [float(value) for value in np.sqrt((blocks**2).mean(1))]


def make_id3_tag(body: bytes) -> bytes:
    size = bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x04\x00\x00" + size + body


def make_mp3(seconds: float = 1.0, rate: int = 44_100) -> bytes:
    return sound(tone(seconds, rate), "libmp3lame", "mp3", rate)


def write_sizes(data: bytes, file_size: int, sample_size: int) -> bytes:
    """Replace both sizes in the header of a WAV file."""
    return data[:4] + struct.pack("<I", file_size) + data[8:40] + struct.pack("<I", sample_size) + data[44:]


@pytest.mark.parametrize(("form", "codec"), [("matroska", "libopus"), ("mp4", "aac"), ("ogg", "libopus")])
def test_gap_becomes_silence(form: str, codec: str) -> None:
    prepared = prepare(timed_sound([(0, SECOND), (3, SECOND)], form, codec))
    assert prepared.length / 16_000 == pytest.approx(4.0, abs=0.05)
    loudness = measure_loudness(prepared)
    assert loudness[:2] == pytest.approx([0.35] * 2, abs=0.02)
    assert loudness[3:6] == pytest.approx([0.0] * 3, abs=0.01)
    assert loudness[6] == pytest.approx(0.35, abs=0.02)
    assert prepared.notes == ("audio in memory: gaps in its time stamps became 2.0 s of silence",)


def test_long_gap_is_shortened_once() -> None:
    prepared = prepare(timed_sound([(0, SECOND), (101, SECOND), (104, SECOND)]))
    assert prepared.length / 16_000 == pytest.approx(65.0, abs=0.1)  # 3 s of sound, and gaps of 60 and 2 s
    assert prepared.notes[0].endswith("gaps in its time stamps became 62.0 s of silence; 40.0 s more were left out")


def test_gap_counts_towards_the_limit() -> None:
    with pytest.raises(MediaError, match="is longer than 10 s"):
        prepare(timed_sound([(0, SECOND), (30, SECOND)]), audio_max_seconds=10.0)


def test_late_start_is_silence_only_beside_an_earlier_stream() -> None:
    alone = prepare(timed_sound([(5, SECOND)]))
    assert (alone.length / 16_000, alone.notes) == (pytest.approx(1.0, abs=0.03), ())
    for form, codec in (("matroska", "libopus"), ("mp4", "aac")):
        with_video = prepare(timed_sound([(2, SECOND)], form, codec, video_seconds=4))
        assert with_video.length / 16_000 == pytest.approx(3.0, abs=0.05)
        assert measure_loudness(with_video)[:3] == pytest.approx([0.0] * 3, abs=0.01)
        assert not prepare(timed_sound([(0, SECOND)], form, codec, video_seconds=1)).notes


@pytest.mark.parametrize(
    ("between", "tags"),
    [
        (b"", 1),  # The second file starts with a tag of its own.
        (make_id3_tag(random.Random(0).randbytes(200_000)), 2),
        (make_id3_tag(b"\xff" * 200_000), 2),
        (b"TAG" + b"x" * 125, 1),
        (b"TAG" + b"x" * 125 + make_id3_tag(b"\xff\xfb\x90\x00" * 1000), 2),
    ],
    ids=["plain", "cover picture", "cover like packets", "old tag", "both"],
)
def test_joined_mp3_files_are_decoded_through_their_tags(between: bytes, tags: int) -> None:
    prepared = prepare(make_mp3() + between + make_mp3())
    assert prepared.length / 16_000 == pytest.approx(2.0, abs=0.1)
    assert measure_loudness(prepared)[:4] == pytest.approx([0.35] * 4, abs=0.06)
    plural = "s" if tags > 1 else ""
    assert prepared.notes == (f"audio in memory: {tags} ID3 tag{plural} between packets skipped",)


def test_many_short_joined_mp3_files_are_decoded() -> None:
    prepared = prepare(make_mp3(0.2) * 12)
    assert prepared.length / 16_000 == pytest.approx(2.4, abs=0.8)  # Each file starts and ends with padding.


def test_sound_that_looks_like_a_tag_is_kept() -> None:
    data = make_mp3()
    middle = len(data) // 2
    for fake in (b"ID3\x04\x00\x00\x00\x00\x00\x05", b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f"):
        assert remove_id3_tags(data[:middle] + fake + b"\x12" * 99 + data[middle:])[1] == 0


@pytest.mark.parametrize("rates", [(44_100, 24_000), (24_000, 44_100), (16_000, 48_000)])
@pytest.mark.parametrize(("codec", "form"), [("libmp3lame", "mp3"), ("aac", "adts"), ("flac", "flac"), ("", "wav")])
def test_change_of_sample_rate_keeps_length_and_pitch(codec: str, form: str, rates: tuple[int, int]) -> None:
    parts = [wav(tone(1.0, r), r) if form == "wav" else sound(tone(1.0, r), codec, form, r) for r in rates]
    prepared = prepare(b"".join(parts))
    assert prepared.length / 16_000 == pytest.approx(2.0, abs=0.2)
    for second in (prepared.value[2000:14_000], prepared.value[-14_000:-3000]):
        peak = int(np.abs(np.fft.rfft(second)).argmax()) * 16_000 / len(second)
        assert peak == pytest.approx(440, abs=5)


def test_change_of_channels_keeps_the_loudness() -> None:
    mono = timed_sound([(0, SECOND)], "adts", "aac")
    stereo = timed_sound([(0, SECOND)], "adts", "aac", layout="stereo")
    for joined in (mono + stereo, stereo + mono):
        assert prepare(joined).length / 16_000 == pytest.approx(2.0, abs=0.1)


def test_chained_ogg_streams_are_read_one_after_the_other() -> None:
    first, second = (sound(tone(seconds, 48_000), "libopus", "ogg", 48_000) for seconds in (1.0, 1.5))
    prepared = prepare(first + second)
    assert prepared.length == pytest.approx(2.5 * 16_000, abs=4)
    assert measure_loudness(prepared) == pytest.approx([0.354] * 5, abs=0.02)
    flac = [timed_sound([(0, tone(1.0, rate))], "ogg", "flac", rate) for rate in (48_000, 16_000)]
    assert prepare(b"".join(flac)).length / 16_000 == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(
    ("file_size", "sample_size"),
    [
        (0xFFFF_FFFF, 0xFFFF_FFFF),
        (0, 0),
        (36, 0),
        (0x7FFF_FFFF, 0x7FFF_FFDB),
        (32_036, 0xFFFF_FFFF),
        (0xFFFF_FFFF, 32_000),
        (1_000_000, 32_000),
        (4, 32_000),
    ],
)
def test_wav_with_wrong_or_unknown_lengths_is_read_whole(file_size: int, sample_size: int) -> None:
    streamed = write_sizes(wav(tone(1.0)), file_size, sample_size)
    assert prepare(streamed).length == 16_000
    assert prepare(streamed * 3).length == 48_000


def test_truncated_wav_is_rejected() -> None:
    data = wav(tone(1.0))
    for truncated in (data[:20_000], data + data[:20_000], write_sizes(data, 32_036, 100_000)):
        with pytest.raises(MediaError, match=r"audio in memory: is truncated: has \d+ of the \d+ bytes declared"):
            prepare(truncated)


def test_few_undecodable_packets_are_skipped_and_counted() -> None:
    data = timed_sound([(0, tone(5.0, 48_000))], "mp4", "aac")
    prepared = prepare(damage_packets(data, range(50, 53), b"\xff"))
    assert prepared.notes[0].endswith("3 of 236 packets could not be decoded and were skipped")
    assert prepared.length / 16_000 == pytest.approx(5.0, abs=0.1)
    with pytest.raises(MediaError, match=r"is damaged: 60 of 236 packets cannot be decoded"):
        prepare(damage_packets(data, range(50, 110), b"\xff"))


def test_undecodable_seconds_become_silence() -> None:
    data = timed_sound([(0, tone(5.0, 48_000))], "mp4", "aac")
    prepared = prepare(damage_packets(data, range(50, 60), b"\xff"))
    assert prepared.length / 16_000 == pytest.approx(5.0, abs=0.05)
    assert "silence" in prepared.notes[-1]


def test_impossible_sample_rate_is_rejected_at_once() -> None:
    data = wav(tone(0.3))
    with pytest.raises(MediaError, match="has 2000000000 samples per second, more than 1000000"):
        prepare(data[:24] + struct.pack("<I", 2_000_000_000) + data[28:])
