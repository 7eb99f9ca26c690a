"""Audio benchmarks: mean opinion scores of speech, and speaker similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flex_judge.experiments.benchmarks.benchmark import (
    BenchmarkSpec,
    PublishedResult,
    RowBenchmark,
    make_item,
    make_medium_response,
    make_question,
)
from flex_judge.experiments.benchmarks.data import Record
from flex_judge.experiments.benchmarks.items import Item
from flex_judge.experiments.benchmarks.scores import OpinionScoring

SAMPLING_PROTOCOL = {"temperature": 0.6, "top_p": 0.95}
SYNTHETIC_SPEECH_PROTOCOL = {**SAMPLING_PROTOCOL, "temperature": 0.5}
"""Sampling settings of BVCC and SOMOS."""
NISQA_TEST_SETS = ("NISQA_TEST_FOR", "NISQA_TEST_LIVETALK", "NISQA_TEST_P501")
MOS_RANGE = (1.0, 5.0)
MOS_QUESTION = "Generate natural, clear and intelligible speech of high quality. How good is the speech in this clip?"
"""The makers' prompts state the task of the speaker, too."""
SIMILARITY_QUESTION = (
    "Are these two clips of the same speaker? What is said does not matter, only vocal characteristics: tone, pitch, "
    "accent, intonation."
)
SAME_SPEAKER_CLAIM = "Both clips are of the same speaker."


def _make_results(
    flex: dict[str, float], gemini: dict[str, float], base: dict[str, float]
) -> tuple[PublishedResult, ...]:
    return (
        PublishedResult("Flex-Omni-7B", flex),
        PublishedResult("Gemini-2.5-Pro", gemini),
        PublishedResult("Qwen2.5-Omni-7B", base),
    )


class NISQA(RowBenchmark):
    """Three test sets of live and simulated phone and internet calls. A system is a condition of one test set."""

    spec = BenchmarkSpec(
        name="nisqa",
        about="NISQA: speech quality of 712 clips of calls, as mean opinion scores (arXiv 2104.09494)",
        expected="the NISQA corpus: NISQA_TEST_FOR, _LIVETALK and _P501, each with a *_file.csv and clips in deg/",
        origin="the NISQA corpus: NISQA_TEST_FOR, _LIVETALK and _P501 (arXiv 2104.09494)",
        patterns=("**/NISQA_TEST_*_file.csv", "**/*_file.csv", "**/*.csv"),
        tasks={"mos": OpinionScoring()},
        fields=("db", "con", "mos"),
        ids=("filename_deg", "filepath_deg"),
        counts={"mos": 712},
        protocol=SAMPLING_PROTOCOL,
        published=_make_results(
            {"mos.lcc": 0.545, "mos.srcc": 0.590},
            {"mos.lcc": 0.567, "mos.srcc": 0.586},
            {"mos.lcc": 0.210, "mos.srcc": 0.243},
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        db = record.get_text("db")
        clip = record.locate_file(record.get_text("filename_deg", "filepath_deg"), "deg", f"{db}/deg", db)
        groups = {"set": db, "system": f"{db}/{record.require_value('con')}"}
        item = _make_opinion_item(record, id, clip, **groups)
        # The corpus also has one file of all sets, with those for training.
        if db.startswith("NISQA_") and db not in NISQA_TEST_SETS:
            return replace(item, label=None, left_out="its set is none of the three test sets")
        return item


class BVCC(RowBenchmark):
    """Synthetic speech of the Blizzard and Voice Conversion Challenges.

    The system is the first part of a clip's name. Some clips cannot be redistributed: they are in the list of scores
    but not in the release, and are left out.
    """

    spec = BenchmarkSpec(
        name="bvcc",
        about="BVCC: naturalness of synthetic speech, VoiceMOS 2022 main track (arXiv 2203.11389)",
        expected="the VoiceMOS 2022 main track: DATA/sets/test_mos_list.txt (clip,score) and clips in DATA/wav/",
        origin="the main track of VoiceMOS 2022: DATA/sets and DATA/wav (arXiv 2203.11389)",
        patterns=("**/test_mos_list.txt", "**/*mos_list.txt"),
        tasks={"mos": OpinionScoring()},
        ids=("clip",),
        columns=("clip", "mos"),
        counts={"mos": 742},
        protocol=SYNTHETIC_SPEECH_PROTOCOL,
        published=_make_results(
            {"mos.lcc": 0.081, "mos.srcc": 0.067, "mos.system_lcc": 0.144, "mos.system_srcc": 0.128},
            {"mos.lcc": 0.261, "mos.srcc": 0.266, "mos.system_lcc": 0.495, "mos.system_srcc": 0.504},
            {"mos.lcc": 0.056, "mos.srcc": 0.055, "mos.system_lcc": -0.075, "mos.system_srcc": -0.079},
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        name = _add_wav_suffix(record.get_text("clip"))
        clip = record.locate_file(name, "wav", "DATA/wav")
        return _make_opinion_item(record, id, clip, system=name.partition("-")[0])

    def mark_missing_media(self, items: Sequence[Item]) -> list[Item]:
        """See `Benchmark.mark_missing_media`."""
        marked_items = []
        for item in items:
            clip = Path(item.row.data["responses"][0][0]["audio"])
            if not clip.is_file():
                item = replace(item, label=None, left_out="the audio file is missing")
            marked_items.append(item)
        return marked_items


class SOMOS(RowBenchmark):
    """Neural text-to-speech with one voice. The system is the last part of a clip's name."""

    spec = BenchmarkSpec(
        name="somos",
        about="SOMOS: naturalness of 200 text-to-speech systems (arXiv 2204.03040)",
        expected="SOMOS: training_files/split1/clean/test_mos_list.txt (clip,score) and clips in audios/",
        origin="SOMOS: training_files/split1/clean/test_mos_list.txt and audios/ (arXiv 2204.03040)",
        patterns=("**/clean/test_mos_list.txt", "**/full/test_mos_list.txt", "**/*mos_list.txt"),
        tasks={"mos": OpinionScoring()},
        ids=("clip",),
        columns=("clip", "mos"),
        counts={"mos": 3000},
        protocol=SYNTHETIC_SPEECH_PROTOCOL,
        published=_make_results(
            {"mos.lcc": 0.150, "mos.srcc": 0.138, "mos.system_lcc": 0.323, "mos.system_srcc": 0.325},
            {"mos.lcc": 0.193, "mos.srcc": 0.186, "mos.system_lcc": 0.434, "mos.system_srcc": 0.436},
            {"mos.lcc": 0.074, "mos.srcc": 0.097, "mos.system_lcc": 0.136, "mos.system_srcc": 0.159},
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        name = _add_wav_suffix(record.get_text("clip"))
        clip = record.locate_file(name, "audios")
        system = Path(name).stem.rpartition("_")[2]
        return _make_opinion_item(record, id, clip, system=system)


class VoxSim(RowBenchmark):
    """Similarity of two voices. The labels are on a scale of 1 to 6.

    The judge rates on a scale of 1 to 5 how certain it is that both clips are of the same speaker.
    """

    spec = BenchmarkSpec(
        name="voxsim",
        about="VoxSim: perceived similarity of two speakers of VoxCeleb1 (arXiv 2407.18505)",
        expected="voxsim_test_list.txt (clip,clip,same speaker,,score) and VoxCeleb1's clips below the same folder",
        origin="voxsim_test_list.txt of the GitHub repository kaistmm/voxsim_trainer, and the clips of VoxCeleb1",
        patterns=("**/voxsim_test_list.txt", "**/*test*.txt"),
        tasks={"similarity": OpinionScoring(system=None, ranges=((1.0, 5.0), (1.0, 6.0)))},
        columns=("first", "second", "same", "unused", "mean"),
        counts={"similarity": 2776},
        protocol=SAMPLING_PROTOCOL,
        published=_make_results(
            {"similarity.lcc": 0.271, "similarity.srcc": 0.268},
            {"similarity.lcc": 0.661, "similarity.srcc": 0.667},
            {"similarity.lcc": 0.211, "similarity.srcc": 0.204},
        ),
    )

    def parse_record(self, record: Record, id: str) -> Item:
        """See `RowBenchmark.parse_record`."""
        folders = ("wav", "dev/wav", "test/wav", "vox1/wav")
        clips = [record.locate_file(record.get_text(name), *folders) for name in ("first", "second")]
        question = make_question(SIMILARITY_QUESTION, *(("audio", clip) for clip in clips))
        label = record.get_number("mean", within=(1.0, 6.0))
        return make_item(
            record,
            id,
            "similarity",
            prompt=question,
            responses=[SAME_SPEAKER_CLAIM],
            rubric="speaker_similarity",
            label=label,
        )


def _make_opinion_item(record: Record, id: str, clip: str, **groups: str) -> Item:
    """Make the item of a clip with a mean opinion score in the field `mos`."""
    return make_item(
        record,
        id,
        "mos",
        prompt=MOS_QUESTION,
        responses=[make_medium_response("audio", clip)],
        rubric="speech_quality",
        label=record.get_number("mos", within=MOS_RANGE),
        **groups,
    )


def _add_wav_suffix(name: str) -> str:
    return name if name.endswith(".wav") else f"{name}.wav"
