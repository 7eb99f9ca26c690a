"""Notes on media in judgments: what a limit or a damaged file kept from the judge."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from clips import sound, timed_film, tone

from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.media.opening import make_audio, make_video
from flex_judge.judges.media.prepared import MediaLimits
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.types import Comparison


def judge(media: Any, settings: JudgeSettings) -> Judgment:
    engine = ScriptedEngine(
        lambda prompt, sampling: "fine</think><answer>4</answer><answer>3</answer>", profile=PROFILES["flex-omni"]
    )
    prompt = [{"role": "user", "content": [media, "What is this?"]}]
    (judgment,) = FlexJudge(engine, settings).judge([Comparison.of(prompt, "a", "b")])
    assert judgment.status == Status.OK
    return Judgment.from_json(judgment.to_json())


def test_judgment_says_which_frames_a_limit_left_out() -> None:
    data = timed_film([k / 10 for k in range(600)], "matroska", "mpeg4", gop=100)
    settings = JudgeSettings(order="both", media=MediaLimits(video_max_frames=16, video_max_pixels=56 * 56))
    notes = ["clip.mkv: 16 of 120 frames that 2 fps would give; sampled at 0.27 fps"]
    for _ in range(2):  # The second time, the prepared video comes from the cache.
        video = make_video({"bytes": data, "path": "clip.mkv"})
        assert judge(video, settings).provenance["media_notes"] == notes


def test_judgment_says_that_packets_were_skipped(caplog: pytest.LogCaptureFixture) -> None:
    mp3 = sound(tone(1.1, 44_100), "libmp3lame", "mp3", 44_100)
    with caplog.at_level(logging.WARNING):
        judgment = judge(
            make_audio({"bytes": mp3 + b"\xff\xfb\x90\x00" * 120 + mp3, "path": "two.mp3"}), JudgeSettings()
        )
    note = judgment.provenance["media_notes"][0]
    assert note.startswith("two.mp3: ")
    assert "skipped" in note
    assert note in caplog.messages


def test_whole_media_have_no_notes() -> None:
    whole = make_audio(sound(tone(1.0, 48_000), "libopus", "ogg", 48_000))
    assert "media_notes" not in judge(whole, JudgeSettings()).provenance
