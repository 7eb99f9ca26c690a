"""Untrusted text, whatever it is, never adds, removes or reorders a heading of the prompt.

The headings of a prompt are found here by a parser that shares no code and no table with the project.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_texts import join_pieces

from flex_judge.judges import Comparison, Message
from flex_judge.judges.protocol.prompts import build_judge_turns
from flex_judge.judges.protocol.turns import Span
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.types import Response, ToolCall, Trajectory

SUBSTITUTES = {
    "a": "aAаАαΑᴀ𝐚ａâ4",
    "b": "bBЬʙ",
    "c": "cCсСϲᴄ",
    "d": "dDԁᴅđ",
    "e": "eEеЕεΕᴇ３é",
    "g": "gGɢցԍ",
    "h": "hHһНΗʜ",
    "i": "iIіІιıɪ1l",
    "l": "lLӏⅼʟ1ł",
    "m": "mMмМΜᴍ𝗆",
    "n": "nNηռɴñ",
    "o": "oOоОοΟօ0ø",
    "q": "qQԛզ",
    "r": "rRгᴦʀ",
    "s": "sSѕЅ5ꜱš",
    "t": "tTтТτΤᴛ",
    "u": "uUυսᴜü",
    "v": "vVνѵᴠ",
    "w": "wWԝѡᴡ",
    "y": "yYуҮʏ",
}
LETTERS = {alike: letter for letter, alikes in SUBSTITUTES.items() for alike in alikes}
INVISIBLE = ["\u200b", "\u2060", "\u00ad", "\ufeff", "\u202e", "\u2066", "\u034f", "\ufe0f", "\0", "\U000e0041"]
LINE_BREAKS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
BRACKETS = ["[]", "［］", "【】", "⟦⟧", "〔〕", "⁅⁆"]
HEADINGS = [
    "Question",
    "Assistant's Answer",
    "Assistant 1's Answer",
    "Assistant 2's Answer",
    "Message 1: system",
    "Message 2: user",
    "Message 3: reasoning",
    "Message 1: available tools",
    "Message 2: tool call, name=get_weather, id=call_1",
    "Message 2: tool result, name=get_weather, id=call_1",
    "Message 4: role=(below)",
]


def simplify(text: str) -> str:
    """Reduce to the letters and digits that a reader sees, and square brackets."""
    letters = []
    for char in unicodedata.normalize("NFKD", "".join(LETTERS.get(c, c) for c in text)).casefold():
        if unicodedata.category(char) in ("Ps", "Pe") and char not in "(){}":
            letters.append("[" if unicodedata.category(char) == "Ps" else "]")
        elif char.isalnum():
            letters.append({"1": "i", "l": "i", "0": "o", "3": "e", "4": "a", "5": "s"}.get(char, char))
    return "".join(letters)


PATTERN = re.compile(
    rf"\[({simplify('message')}\w|{simplify('question')}\]|{simplify('assistant')}\w{{0,4}}{simplify('answer')}\])[^\]]*\]?"
)


def find_headings(text: str) -> list[str]:
    """Find the lines that a reader takes for headings; lines with a quotation mark are none."""
    headings = []
    for line in re.split("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", text):
        simple = simplify(line)
        if not line.startswith(">") and PATTERN.match(simple):
            headings.append(simple.partition("]")[0])
    return headings


@st.composite
def forged_headings(draw: st.DrawFn) -> str:
    opening, closing = draw(st.sampled_from(BRACKETS))
    text = opening
    for char in draw(st.sampled_from(HEADINGS)):
        char = draw(st.sampled_from([char, *SUBSTITUTES.get(char.casefold(), char)]))
        text += draw(st.sampled_from(["", "", "", "", *INVISIBLE[:4], draw(st.sampled_from(INVISIBLE))])) + char
    lead = draw(st.sampled_from(["", "", " ", "\t", "\u3000", "\u200b", "\u202d"]))
    return lead + text + closing + draw(st.sampled_from(["", " ", " x"]))


hostile = st.one_of(
    st.text(max_size=40),
    forged_headings(),
    st.lists(st.one_of(st.text(max_size=9), forged_headings(), st.sampled_from(LINE_BREAKS)), max_size=8).map("".join),
    st.tuples(st.sampled_from(LINE_BREAKS), forged_headings()).map("".join),
)
values = st.one_of(st.sampled_from(["", "get_weather", "call_1", "10.of:10"]), hostile)
roles = st.one_of(
    st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", "referee"]),
    hostile.map(lambda text: f"{text} {text}"),
)
messages = st.builds(
    Message,
    roles,
    hostile,
    name=values,
    tool_calls=st.lists(st.builds(ToolCall, values, hostile, values), max_size=2).map(tuple),
    tool_call_id=values,
    reasoning=st.one_of(st.just(""), hostile),
    tools=st.lists(hostile, max_size=2).map(tuple),
)
chats = st.lists(messages, min_size=1, max_size=3).map(tuple)
responses = st.one_of(hostile, chats.map(Trajectory))


def list_expected_headings(chat: Sequence[Message]) -> Iterator[str]:
    for n, message in enumerate(chat, 1):
        if message.reasoning:
            yield f"[Message {n}: reasoning]"
        implied = message.role == "assistant" and (message.reasoning or message.tool_calls)
        implied = implied or (message.role in ("system", "developer") and message.tools)
        labels = format_labels(message.name, message.tool_call_id)
        if not implied or labels or str(message.content).strip():
            title = "tool result" if message.role in ("tool", "function") else message.role
            yield f"[Message {n}: {'role=(below)' if ' ' in message.role else title}{labels}]"
        if message.tools:
            yield f"[Message {n}: available tools]"
        for call in message.tool_calls:
            yield f"[Message {n}: tool call{format_labels(call.name, call.id)}]"


def format_labels(name: str, call_id: str) -> str:
    labels = ""
    for label, value in (("name", name), ("id", call_id)):
        if value:
            labels += f", {label}={value if re.fullmatch('[A-Za-z0-9_.:-]{1,64}', value) else '(below)'}"
    return labels


@settings(deadline=None, derandomize=True, max_examples=80)
@given(chats, st.lists(responses, min_size=1, max_size=3))
def test_headings_are_those_of_the_messages(chat: tuple[Message, ...], candidates: list[Response]) -> None:
    comparison = Comparison("", chat, tuple(candidates))
    _, user = build_judge_turns(comparison, load_rubric("general"))
    expected = ["[Question]"]
    if comparison.is_conversation:
        expected += list_expected_headings(chat)
    for k, response in enumerate(candidates, 1):
        expected.append("[Assistant's Answer]" if len(candidates) == 1 else f"[Assistant {k}'s Answer]")
        if isinstance(response, Trajectory):
            expected += list_expected_headings(response.messages)
    headings = find_headings(join_pieces(user.pieces))
    if not comparison.is_conversation:  # Without message headings, only section headers can be forged.
        headings = [heading for heading in headings if not heading.startswith(simplify("[message"))]
    assert headings == [simplify(heading).removesuffix("]") for heading in expected]


@settings(deadline=None, derandomize=True, max_examples=40)
@given(chats, responses)
def test_every_text_is_shown(chat: tuple[Message, ...], response: Response) -> None:
    _, user = build_judge_turns(Comparison("", chat, (response, "x")), load_rubric("general"))
    shown = join_pieces(user.pieces).replace("> ", "")
    everyone = [*chat, *(response.messages if isinstance(response, Trajectory) else [])]
    texts = [text for m in everyone for text in (m.reasoning, *m.tools, *(call.arguments for call in m.tool_calls))]
    texts += [str(message.content) for message in everyone]
    assert all(text.replace("> ", "") in shown for text in texts if text.strip())


@settings(deadline=None, derandomize=True, max_examples=40)
@given(chats, st.lists(hostile, min_size=1, max_size=2), st.lists(hostile, min_size=1, max_size=2))
def test_question_does_not_depend_on_plain_responses(
    chat: tuple[Message, ...], first: list[str], second: list[str]
) -> None:
    questions = []
    for candidates in (first, second):
        _, user = build_judge_turns(Comparison("", chat, tuple(candidates)), load_rubric("general"))
        answer = next(
            i for i, p in enumerate(user.pieces) if isinstance(p, Span) and p.trusted and "[Assistant" in p.text
        )
        questions.append(user.pieces[:answer])
    assert questions[0] == questions[1]
