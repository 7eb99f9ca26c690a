"""Names and docstrings are plain technical English, within ceilings that similar projects keep.

`python -m pytest tests/test_language.py -s` prints the figures; a failure lists the places.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from import_graph import ImportGraph
from language import Counter, Language, find_idioms, is_participle, measure_language
from repository import ROOT

PERCENT, PER_THOUSAND = 100.0, 1000.0
MAX_PARTICIPLES, MAX_SINGLE_WORDS, MAX_VAGUE_LOCALS, MAX_IDIOMS = 3.0, 30.0, 0.5, 1.0
SHOWN = 40


@pytest.fixture(scope="module")
def language() -> Language:
    return measure_language(ImportGraph(ROOT).paths.values())


def check(title: str, counter: Counter, scale: float, ceiling: float) -> None:
    share = counter.share(scale)
    print(f"\n{title}: {share:.2f} (at most {ceiling:g})")
    places = [place.removeprefix(f"{ROOT}/") for place in counter.places[:SHOWN]]
    assert share <= ceiling, "\n".join([f"{title}: {share:.2f} is above {ceiling:g}", *places])


def test_functions_are_verbs_and_not_participles(language: Language) -> None:
    check("% of functions named by a participle", language.participles, PERCENT, MAX_PARTICIPLES)


def test_functions_have_an_object(language: Language) -> None:
    check("% of functions named by one word", language.single_words, PERCENT, MAX_SINGLE_WORDS)


def test_local_names_name_their_content(language: Language) -> None:
    check("% of assigned names that are vague", language.vague_locals, PERCENT, MAX_VAGUE_LOCALS)


def test_docstrings_have_few_idioms(language: Language) -> None:
    check("idioms per 1,000 words of docstrings", language.idioms, PER_THOUSAND, MAX_IDIOMS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("summed", True),
        ("_pairs_found", True),
        ("text_of_told", True),
        ("is_closed", False),
        ("seed", False),
        ("embed", False),
        ("seed_everything", False),
        ("read", False),
        ("last_read", True),
        ("load_rubric", False),
        ("check_is_closed", False),
    ],
)
def test_a_participle_is_recognized(name: str, expected: bool) -> None:
    assert is_participle(name) is expected


def test_idioms_are_counted_as_often_as_they_occur() -> None:
    text = (
        "What is kept beside it.\n    Of those, none. Rows that it was told, and those of others by which it goes on."
    )
    assert len(list(find_idioms(text))) == 7
    assert list(find_idioms("Return the rows that were kept. What remains is empty.")) == []


def test_names_and_docstrings_of_a_module_are_measured(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        '"""A module told to run."""\n\nfound = 1\nrows = 2\n"""Rows."""\n\n\n'
        "class Table:\n    @property\n    def sorted(self): ...\n\n    def __len__(self): ...\n\n"
        "    def close(self): ...\n\n\ndef load_rows(): ...\n"
    )
    language = measure_language([module])
    assert (language.vague_locals.total, language.vague_locals.places) == (2, [f"{module}:3 found"])
    assert (language.single_words.total, language.participles.total) == (2, 2)
    assert language.single_words.places == [f"{module}:14 close"]
    assert (language.idioms.total, language.idioms.places) == (6, [f"{module}:1 'told'"])
