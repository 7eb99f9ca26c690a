"""The media among the shared cases: each file is read as a player or viewer shows it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from shared_cases import CASES, needs_cases

from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Status
from flex_judge.judges.media.opening import make_audio, make_image, make_video
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.models.inputs.preparation import prepare_media
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.judges.types import Comparison

OMNI = PROFILES["flex-omni"]
pytestmark = needs_cases


def prepare(make: Any, name: str) -> PreparedMedia:
    return prepare_media(make(CASES / name), OMNI, OMNI.limits)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("01-video-rate-guessed/recorded_live_12s.webm", 12.1),
        ("02-vfr-refused/pause_24s_vfr.mkv", 24.0),
        ("02-vfr-refused/starts_at_5s.mkv", 3.0),
        ("02-vfr-refused/dropped_frames_10s.webm", 9.85),
    ],
)
def test_video_is_sampled_over_its_whole_length(name: str, seconds: float) -> None:
    prepared = prepare(make_video, name)
    assert prepared.length / prepared.fps == pytest.approx(seconds, abs=0.1)
    assert prepared.length == pytest.approx(2 * seconds, abs=2)
    greys = prepared.value.mean((1, 2, 3))  # The files become brighter from black to white.
    assert [greys[0], greys[-1]] == pytest.approx([0, 254], abs=4)
    if "pause" not in name:
        assert greys == pytest.approx(np.linspace(0, 255, prepared.length), abs=24)
    assert not prepared.notes


@pytest.mark.parametrize("name", ["bad_phys_crc.png", "icc_profile_1200kB.png"])
def test_side_data_of_a_picture_are_ignored(name: str) -> None:
    assert prepare(make_image, f"08-png-side-data/{name}").value.size == (56, 56)


def test_joined_mp3_is_decoded_to_its_end() -> None:
    prepared = prepare(make_audio, "12-mp3-joined/two_mp3_joined.mp3")
    assert prepared.length / 16_000 == pytest.approx(2.08, abs=0.03)
    assert prepared.notes[0].endswith("two_mp3_joined.mp3: 1 ID3 tag between packets skipped")


def test_judgment_has_the_notes_on_its_media() -> None:
    engine = ScriptedEngine(lambda prompt, sampling: "fine</think><answer>4</answer>", profile=OMNI)
    path = str(CASES / "12-mp3-joined/two_mp3_joined.mp3")
    prompt = [{"role": "user", "content": [{"type": "audio", "audio": path}, {"type": "text", "text": "Rate."}]}]
    (judgment,) = FlexJudge(engine).judge([Comparison.of(prompt, "a")])
    assert judgment.status == Status.OK
    assert judgment.provenance["media_notes"] == [f"{path}: 1 ID3 tag between packets skipped"]
