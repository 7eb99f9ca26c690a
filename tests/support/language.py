"""Measure how far names and docstrings are from plain technical English.

Four figures: functions named by a participle (`summed`), functions named by a single word, local names that say
nothing (`found`, `given`), and idioms that make docstrings hard to read. `tests/test_language.py` holds the ceilings.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


IRREGULAR_PARTICIPLES = _words(
    "begun broken built cut done drawn fed found given gone grown heard held kept known laid left lost made meant met"
    " put read said seen sent shown spoken spread taken taught thought told won written"
)
"""Participles that do not end in -ed. `cut`, `put`, `read` and the like count in compounds only."""
SAME_AS_VERB = _words("cut put read spread")
NOUNS_AND_VERBS_IN_ED = _words("bed embed feed need seed speed")
LEADING_VERBS = _words("check get has is mark needs on print set test was write")
"""A name that begins with one of these describes a check or an action, whatever its last word is."""
VAGUE_NAMES = _words(
    "after all_ asked before both every found given here how kept known least made most one others ours own rest said"
    " taken theirs there told what whole"
)
IDIOMS = {
    name: re.compile(pattern)
    for name, pattern in {
        "a sentence that opens with 'What'": r'(?:^|\n)[ \t"]*What\b',
        "a sentence that opens with 'Of'": r"(?:^|[.;:\n])\s*Of(?= [a-z])",
        "'is none'": r"\b(?:was|were|is|are) none\b",
        "'so many' or 'so much'": r"\bso m(?:any|uch)\b",
        "'come to'": r"\bc[oa](?:me|mes|ming) to\b",
        "'told'": r"\btold\b",
        "'as it is'": r"\bas (?:they (?:are|were)|it (?:is|was))\b",
        "'go on'": r"\b(?:go|goes|going|went) on\b",
        "'that of' or 'those of'": r"\bth(?:at|ose) of\b",
        "'beside'": r"\bbeside\b",
        "a preposition before 'which' or 'whose'": r"\b(?:by|for|from|in|of|on|to|with) wh(?:ich|om|ose)\b",
    }.items()
}


@dataclass
class Counter:
    """Places with a problem, of a number of places looked at."""

    total: int = 0
    places: list[str] = field(default_factory=list)

    def share(self, scale: float) -> float:
        """Return the problems per `scale` places."""
        return scale * len(self.places) / self.total if self.total else 0.0

    def add(self, place: str, has_problem: bool) -> None:
        """Count a place."""
        self.total += 1
        if has_problem:
            self.places.append(place)


@dataclass
class Language:
    """The four figures of a tree of modules."""

    participles: Counter = field(default_factory=Counter)
    single_words: Counter = field(default_factory=Counter)
    vague_locals: Counter = field(default_factory=Counter)
    idioms: Counter = field(default_factory=Counter)
    """Counted in words of docstrings."""


def measure_language(paths: Iterable[Path]) -> Language:
    """Measure modules."""
    language = Language()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            place = f"{path}:{getattr(node, 'lineno', 1)}"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_exempt(node):
                language.participles.add(f"{place} {node.name}", is_participle(node.name))
                language.single_words.add(f"{place} {node.name}", "_" not in node.name.strip("_"))
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        language.vague_locals.add(f"{place} {target.id}", target.id in VAGUE_NAMES)
            for text in _find_docstrings(node):
                prose = text.partition("Args:")[0]
                language.idioms.total += len(prose.split())
                language.idioms.places += [f"{place} {idiom}" for idiom in find_idioms(prose)]
    return language


def is_participle(name: str) -> bool:
    """Whether a function's name is a participle, or ends in one, instead of being a verb with an object."""
    words = name.strip("_").split("_")
    if words[0] in LEADING_VERBS or words[0].startswith(tuple(NOUNS_AND_VERBS_IN_ED)):
        return False
    last = words[-1]
    if last in SAME_AS_VERB and len(words) == 1:
        return False
    return last in IRREGULAR_PARTICIPLES or (last.endswith("ed") and last not in NOUNS_AND_VERBS_IN_ED)


def find_idioms(prose: str) -> Iterator[str]:
    """Yield the name of each idiom in a text, as often as it occurs."""
    for name, pattern in IDIOMS.items():
        for _ in pattern.finditer(prose):
            yield name


def _is_exempt(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Magic methods have their names from Python, and a property is a noun."""
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in function.decorator_list}
    is_magic = function.name.startswith("__") and function.name.endswith("__")
    return is_magic or bool(decorators & {"property", "cached_property", "setter"})


def _find_docstrings(node: ast.AST) -> Iterator[str]:
    """Yield the docstring of a module, class or function, and the strings below fields."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for statement in node.body:
        match statement:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text
