"""Suites: benchmarks that one command runs for one table, and where the data of each are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flex_judge.experiments.benchmarks.data_files import DATA_SUFFIXES
from flex_judge.judges.errors import UsageError, find_similar_name, suggest_name
from flex_judge.judges.validation.text_files import get_format_suffix


@dataclass(frozen=True)
class Suite:
    """Benchmarks that are run together."""

    about: str
    benchmarks: tuple[str, ...]


SUITES: Mapping[str, Suite] = {
    "paper": Suite(
        "the benchmarks with results in the Flex-Judge paper, of all modalities",
        (
            *("mllm-judge", "vl-rewardbench", "mj-bench", "genai-bench", "multimodal-rewardbench", "judge-anything"),
            *("nisqa", "bvcc", "somos", "voxsim", "pandalm", "judgelm"),
        ),
    ),
    "text": Suite("answers in text", ("pandalm", "judgelm", "llmbar", "judgebench", "rewardbench", "rewardbench2")),
    "vision": Suite(
        "answers about images, and generated images and videos",
        ("mllm-judge", "vl-rewardbench", "mj-bench", "genai-bench", "multimodal-rewardbench"),
    ),
    "audio": Suite("quality and similarity of speech", ("nisqa", "bvcc", "somos", "voxsim")),
}


@dataclass(frozen=True)
class FileLocations:
    """Files of each benchmark, as repeated `FOLDER` and `NAME=PATH` arguments of a flag give them.

    Example:
        >>> locations = FileLocations.from_arguments("--data", ["llmbar=LLMBar/Dataset/LLMBar"], ["llmbar"])
        >>> locations.find_files("llmbar")
        ('LLMBar/Dataset/LLMBar',)
    """

    flag: str
    folders: tuple[Path, ...]
    named: Mapping[str, tuple[str, ...]]
    benchmarks: Collection[str]
    """Names of all benchmarks."""
    takes_folders: bool = True
    """Whether a benchmark may have a folder of files."""

    @classmethod
    def from_arguments(
        cls, flag: str, arguments: Sequence[str], benchmarks: Collection[str], *, takes_folders: bool = True
    ) -> FileLocations:
        """Create the locations from the arguments of a flag.

        Args:
            flag: Name of the flag, for messages.
            arguments: Its arguments.
            benchmarks: Names of all benchmarks.
            takes_folders: Whether a benchmark may have a folder of files.

        Raises:
            UsageError: A benchmark does not exist, or a folder does not.
        """
        folders: list[Path] = []
        named: dict[str, tuple[str, ...]] = {}
        for text in arguments:
            name, equals, path = text.partition("=")
            if equals and name in benchmarks:
                if not path:
                    raise UsageError(f"{flag} {text}: the path is missing; expected NAME=PATH")
                named[name] = (*named.get(name, ()), path)
            elif Path(text).is_dir():
                folders.append(Path(text))
            elif equals:
                raise UsageError(f"{flag} {text}: there is no benchmark {name!r}; {suggest_name(name, benchmarks)}")
            else:
                raise UsageError(
                    f"{flag} {text}: no such folder; expected a folder with the data of each benchmark under its name, "
                    "or NAME=PATH"
                )
        return cls(flag, tuple(folders), named, benchmarks, takes_folders)

    def find_files(self, name: str) -> tuple[str, ...]:
        """Find the files or the folder of a benchmark; empty without any.

        In a folder, a benchmark has a subfolder of its name if it may have one, or files whose names are its name with
        an ending.
        """
        if name in self.named:
            return self.named[name]
        for folder in self.folders:
            if self.takes_folders and (folder / name).exists():
                return (str(folder / name),)
            files = [path for path in folder.glob(f"{name}.*") if get_format_suffix(path) in DATA_SUFFIXES]
            if files:
                return tuple(str(path) for path in sorted(files))
        return ()

    def describe_missing(self, name: str) -> str:
        """Describe that a benchmark has no files, with a similar name in a folder if there is one."""
        if not self.folders:
            return f"no {self.flag} for it"
        folders = ", ".join(map(str, self.folders))
        entries = [entry.name for folder in self.folders for entry in folder.iterdir()]
        names = {entry.partition(".")[0]: entry for entry in entries}
        similar = find_similar_name(name, [entry for entry in names if entry not in self.benchmarks])
        hint = f" (is it {names[similar]}?)" if similar else ""
        expected = f"neither {name}/ nor a file" if self.takes_folders else "no file"
        return f"{folders} holds {expected} {name}.*{hint}"
