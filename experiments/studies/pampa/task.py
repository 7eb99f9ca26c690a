"""A class of a molecule as a question about it, and answers as classes. Pure.

The default is PAMPA_NCATS of TDC (Therapeutics Data Commons): whether a molecule passes an artificial membrane.
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
"""How a question is asked: as it is, with the reasoning asked for, and with what the task is told about."""
FINAL = "Final answer:"
ABOUT = (
    "In PAMPA, the parallel artificial membrane permeability assay, molecules diffuse from one well to another through "
    "a membrane of lipids; nothing carries them. Lipophilicity helps up to an optimum. A large polar surface, many "
    "donors and acceptors of hydrogen bonds, a charge at physiological pH, many rotatable bonds and a large molecular "
    "weight hinder."
)
ANSWERED, UNMARKED, SEVERAL, NONE = "answered", "answered without the last line", "several classes", "no class"
_FINAL = re.compile(r"\bfinal\s+answer\W*(?:is\b\W*)?", re.IGNORECASE)
_SENTENCE_ENDS = re.compile(r"[.;!?](?:\s|$)")
_GAPS = re.compile(r"[\W_]+")
_NOT = frozenset(("not", "no", "non", "never", "neither", "nor", "than", "t"))  # the last of "isn't"
_TAKEN = "|"
"""Stands for the words of a class that was found. No word has it."""


@dataclass(frozen=True)
class ClassificationTask:
    """What is asked, and what can be answered."""

    classes: Mapping[str, tuple[str, ...]]
    """Value of the label -> the class's name, and other words for it."""
    question: str = QUESTION
    """With `<mol>` where the molecule is."""
    about: str = ABOUT
    """What the style `task-info` tells of the task."""

    @classmethod
    def from_classes(cls, classes: Sequence[str], question: str = QUESTION, about: str = ABOUT) -> ClassificationTask:
        """Out of texts `VALUE=NAME|OTHER WORDS`, as a command line gives them.

        Raises:
            UsageError: a text of another form, fewer than two classes, names that cannot be told from each other in an
                answer, or a question without a place for the molecule.
        """
        known: dict[str, tuple[str, ...]] = {}
        for text in classes:
            value, equals, names = text.partition("=")
            words = tuple(name.strip() for name in names.split("|") if name.strip())
            given = normalise_label(value)
            if not equals or given is None or not words:
                raise UsageError(f"--classes {text}: expected VALUE=NAME, such as 1='{HIGH}'")
            if given in known:
                raise UsageError(f"--classes {text}: there is a class of the value {given} already")
            known[given] = words
        if len(known) < 2:
            raise UsageError("--classes: expected two classes or more")
        if question.count("<mol>") != 1:
            raise UsageError(f"--question: has {question.count('<mol>')} times <mol>; expected one, for the molecule")
        task = cls(known, question, about)
        if len(set(task.names)) < len(known):
            raise UsageError("--classes: two have the same name")
        for words in known.values():
            for name in words:
                if task.read_class(f"{FINAL} {name}") != (words[0], ANSWERED):
                    raise UsageError(
                        f"--classes: an answer {name!r} would not be read as {words[0]!r}; a name needs its own words"
                    )
        return task

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, in the order of their values."""
        return tuple(words[0] for words in self.classes.values())

    def make_prompt(self, style: str) -> str:
        """The question as it is put to the policy."""
        options = " or ".join(f'"{FINAL} {name}"' for name in self.names)
        parts = [self.question]
        if style == "task-info":
            parts.append(self.about)
        if style != "default":
            parts.append("Go step by step through the properties of the molecule that matter for it.")
        return " ".join([*parts, f"End with {options}."])

    def read_class(self, text: str) -> tuple[str | None, str]:
        """The class that an answer names, and what came of reading it.

        What counts is the first sentence after the last `Final answer:`, in which a class may be shortened (`High`);
        where that names none, all that follows; and without a `Final answer:` the whole text. A class that is denied
        (`not ...`) or is the end of a range (`moderate to high ...`) is not named.

        Returns:
            The class, ANSWERED or UNMARKED; or None and SEVERAL or NONE.
        """
        before, *said = _FINAL.split(text)
        while said and not said[-1].strip():
            said.pop()
        if not said:
            return self._resolve_classes(self._find_classes(before), UNMARKED)
        line = [_get_first_sentence(said[-1])]
        for earlier in reversed(said[:-1]):  # in one line, as who repeats the question does
            if "\n" in earlier:
                break
            line.append(_get_first_sentence(earlier))
        found = {name for part in line for name in self._find_classes(part) or self._find_by_prefix(part)}
        return self._resolve_classes(found or self._find_classes(said[-1]), ANSWERED)

    def _resolve_classes(self, found: set[str], outcome: str) -> tuple[str | None, str]:
        if len(found) == 1:
            return next(iter(found)), outcome
        return None, SEVERAL if found else NONE

    def _find_classes(self, text: str) -> set[str]:
        """The classes that a text names; the longest words first, as one may hold another."""
        plain, found = _to_plain_words(text), set()
        known = sorted(
            ((_to_plain_words(word), words[0]) for words in self.classes.values() for word in words), key=_sort_key
        )
        for word, name in known:
            while word.strip() and (at := plain.find(word)) >= 0:
                if not self._is_denied(plain[:at].split(), name):
                    found.add(name)
                plain = f"{plain[:at]} {_TAKEN} {plain[at + len(word) :]}"
        return found

    def _is_denied(self, before: Sequence[str], name: str) -> bool:
        if before and before[-1] in _NOT:
            return True
        if len(before) < 2 or before[-1] not in ("to", "or"):
            return False
        others = {
            _to_plain_words(word).split()[0] for words in self.classes.values() if words[0] != name for word in words
        }
        return before[-2] in others

    def _find_by_prefix(self, text: str) -> set[str]:
        """The classes of which a text is the beginning."""
        plain = _to_plain_words(text)
        if not plain.strip():
            return set()
        return {
            words[0]
            for words in self.classes.values()
            if any(_to_plain_words(word).startswith(plain) for word in words)
        }


def normalise_label(value: Any) -> str | None:
    """A label of a table or a command line, in one form: numbers without a fraction of nothing; None is no label."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text or None
    return f"{number:g}" if math.isfinite(number) else text


def _get_first_sentence(text: str) -> str:
    """The first one of the first line that has any."""
    line = next((one for one in text.splitlines() if one.strip()), "")
    return _SENTENCE_ENDS.split(line, maxsplit=1)[0]


def _to_plain_words(text: str) -> str:
    """Lower case, with one space between words, before the first and after the last."""
    return f" {_GAPS.sub(' ', text.lower()).strip()} "


def _sort_key(known: tuple[str, str]) -> int:
    return -len(known[0])
