"""Molecule classification as a question, and parsing of answers as classes.

The default is PAMPA_NCATS of TDC (Therapeutics Data Commons): whether a molecule permeates an artificial membrane.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flex_judge.judges.errors import UsageError

HIGH, LOW = "High permeability", "Low-to-moderate permeability"
CLASSES = (f"0={LOW}|Moderate permeability|Low permeability", f"1={HIGH}")
QUESTION = "How well does the molecule <mol> pass an artificial membrane by passive diffusion?"
STYLES = ("default", "cot", "task-info")
"""Prompt styles: the question alone, with a request for reasoning, and also with a description of the task."""
FINAL = "Final answer:"
ABOUT = (
    "In PAMPA, the parallel artificial membrane permeability assay, molecules diffuse from one well to another through "
    "a membrane of lipids; nothing carries them. Lipophilicity helps up to an optimum. A large polar surface, many "
    "donors and acceptors of hydrogen bonds, a charge at physiological pH, many rotatable bonds and a large molecular "
    "weight hinder."
)
ANSWERED, UNMARKED, SEVERAL, NONE = "answered", "answered without a final line", "several classes", "no class"
_FINAL_MARKER = re.compile(r"\bfinal\s+answer\W*(?:is\b\W*)?", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.;!?](?:\s|$)")
_NON_WORDS = re.compile(r"[\W_]+")
_NEGATIONS = frozenset(("not", "no", "non", "never", "neither", "nor", "than", "t"))  # "t" is the end of "isn't"
_MATCHED = "|"
"""Replacement for a matched class name. It contains no word, so it cannot be matched again."""


@dataclass(frozen=True)
class ClassificationTask:
    """Question about a molecule, and the classes that can be answered."""

    classes: Mapping[str, tuple[str, ...]]
    """Name and synonyms of each class, by its label in the table."""
    question: str = QUESTION
    """Question with `<mol>` in place of the molecule."""
    about: str = ABOUT
    """Description of the task for the style `task-info`."""

    @classmethod
    def from_classes(cls, classes: Sequence[str], question: str = QUESTION, about: str = ABOUT) -> ClassificationTask:
        """Create a task from command-line arguments.

        Args:
            classes: Classes as `VALUE=NAME|SYNONYM|...`.
            question: Question with `<mol>` in place of the molecule.
            about: Description of the task.

        Raises:
            UsageError: A class has another format, there are fewer than two classes, their names cannot be
                distinguished in an answer, or the question does not have exactly one `<mol>`.
        """
        names_by_label: dict[str, tuple[str, ...]] = {}
        for text in classes:
            value, equals, joined_names = text.partition("=")
            names = tuple(name.strip() for name in joined_names.split("|") if name.strip())
            label = normalise_label(value)
            if not equals or label is None or not names:
                raise UsageError(f"--classes {text}: expected VALUE=NAME, such as 1='{HIGH}'")
            if label in names_by_label:
                raise UsageError(f"--classes {text}: a class with the value {label} already exists")
            names_by_label[label] = names
        if len(names_by_label) < 2:
            raise UsageError("--classes: expected at least two classes")
        placeholders = question.count("<mol>")
        if placeholders != 1:
            raise UsageError(f"--question: found <mol> {placeholders} times; expected it once, for the molecule")
        task = cls(names_by_label, question, about)
        if len(set(task.names)) < len(names_by_label):
            raise UsageError("--classes: two classes have the same name; give each its own")
        for names in names_by_label.values():
            for name in names:
                if task.read_class(f"{FINAL} {name}") != (names[0], ANSWERED):
                    raise UsageError(
                        f"--classes: the answer {name!r} would not be parsed as {names[0]!r}; "
                        "every name needs a word of its own"
                    )
        return task

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of definition."""
        return tuple(names[0] for names in self.classes.values())

    def make_prompt(self, style: str) -> str:
        """Make the prompt for the policy in a style, one of STYLES."""
        options = " or ".join(f'"{FINAL} {name}"' for name in self.names)
        parts = [self.question]
        if style == "task-info":
            parts.append(self.about)
        if style != "default":
            parts.append("Go step by step through the properties of the molecule that matter for it.")
        return " ".join([*parts, f"End with {options}."])

    def read_class(self, text: str) -> tuple[str | None, str]:
        """Read the class that an answer names.

        The first sentence after the last `Final answer:` counts, and a class may be abbreviated there (`High`). If that
        sentence names no class, all text after it counts; without a `Final answer:` the whole text. A negated class
        (`not ...`) and the end of a range (`moderate to high ...`) do not count.

        Returns:
            The class with ANSWERED or UNMARKED; or None with SEVERAL or NONE.
        """
        introduction, *finals = _FINAL_MARKER.split(text)
        # A text that was cut off may end with the marker.
        while finals and not finals[-1].strip():
            finals.pop()
        if not finals:
            return self._resolve_classes(self._find_classes(introduction), UNMARKED)
        sentences = [_get_first_sentence(finals[-1])]
        # Several markers in one line repeat the options of the question, so all of them count.
        for earlier in reversed(finals[:-1]):
            if "\n" in earlier:
                break
            sentences.append(_get_first_sentence(earlier))
        names: set[str] = set()
        for sentence in sentences:
            names |= self._find_classes(sentence) or self._find_by_prefix(sentence)
        return self._resolve_classes(names or self._find_classes(finals[-1]), ANSWERED)

    def _resolve_classes(self, names: set[str], outcome: str) -> tuple[str | None, str]:
        if len(names) == 1:
            return next(iter(names)), outcome
        return None, SEVERAL if names else NONE

    def _find_classes(self, text: str) -> set[str]:
        """Find the classes that a text names."""
        plain, matches = _to_plain_words(text), set()
        candidates = [(_to_plain_words(name), names[0]) for names in self.classes.values() for name in names]
        # Longer names come first, because a name may contain another one.
        candidates.sort(key=lambda candidate: -len(candidate[0]))
        for words, name in candidates:
            while words.strip() and (position := plain.find(words)) >= 0:
                if not self._is_denied(plain[:position].split(), name):
                    matches.add(name)
                plain = f"{plain[:position]} {_MATCHED} {plain[position + len(words) :]}"
        return matches

    def _is_denied(self, preceding: Sequence[str], name: str) -> bool:
        """Check whether the words before a class name negate it or begin a range with another class."""
        if preceding and preceding[-1] in _NEGATIONS:
            return True
        if len(preceding) < 2 or preceding[-1] not in ("to", "or"):
            return False
        # "moderate to high" is a range that includes both classes, so its end alone is no answer.
        range_starts = {
            _to_plain_words(synonym).split()[0]
            for names in self.classes.values()
            if names[0] != name
            for synonym in names
        }
        return preceding[-2] in range_starts

    def _find_by_prefix(self, text: str) -> set[str]:
        """Find the classes that begin with a text."""
        plain = _to_plain_words(text)
        if not plain.strip():
            return set()
        return {
            names[0]
            for names in self.classes.values()
            if any(_to_plain_words(name).startswith(plain) for name in names)
        }


def normalise_label(value: Any) -> str | None:
    """Normalise a label from a table or the command line: `1.0`, `1` and 1 become `1`.

    Returns:
        The label, or None for a missing value.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text or None
    return f"{number:g}" if math.isfinite(number) else text


def _get_first_sentence(text: str) -> str:
    """Return the first sentence of the first line that is not blank."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    return _SENTENCE_END.split(line, maxsplit=1)[0]


def _to_plain_words(text: str) -> str:
    """Convert a text to lower-case words, with one space before and after each."""
    return f" {_NON_WORDS.sub(' ', text.lower()).strip()} "
