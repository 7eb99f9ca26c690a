"""Places of a row's media in the text of its prompt."""

from __future__ import annotations

import pytest

from flex_judge.judges.conversations.columns import read_row_prompt
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.opening import open_local_media

EIGHT = "<mol>" * 8


def read_parts(prompt: str, *molecules: str) -> list[str]:
    row = {"prompt": prompt, "molecules": list(molecules)}
    (message,) = read_row_prompt(ConversationReader(open_local_media), row)
    return [part if isinstance(part, str) else part.data.decode() for part in message.content]


@pytest.mark.parametrize("mark", ["<mol>", EIGHT])
def test_a_molecule_has_one_mark_or_eight(mark: str) -> None:
    assert read_parts(f"Is {mark} like {mark}?", "CCO", "O") == ["Is ", "CCO", " like ", "O", "?"]


def test_eight_marks_that_do_not_follow_each_other_never_lose_a_molecule() -> None:
    with pytest.raises(UsageError, match="<mol> occurs 16 times in the text, and the row has 2 molecules"):
        read_parts(f"Is {'<mol>' * 4} like {'<mol>' * 12}?", "CCO", "O")
