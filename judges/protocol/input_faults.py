"""Find the parts of a comparison that cannot be judged, so that a group can be judged without them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from flex_judge.judges.errors import MediaError, describe_input_error, is_input_error
from flex_judge.judges.media.types import Media
from flex_judge.judges.types import Comparison, Message, Response, split_content

RenderComparison = Callable[[Comparison], Awaitable[object]]
"""Function that renders the prompt of a comparison, and raises an error if that is impossible."""
MAX_PROBLEMS = 3
"""Maximum number of problems in a description."""


@dataclass(frozen=True)
class InputFault:
    """Reason why a comparison cannot be judged."""

    detail: str
    """The problem, with the part of the comparison."""
    response_problems: tuple[str, ...] = ()
    """Problem of each response, empty for valid ones; no entries if the prompt or the comparison as a whole is at
    fault."""


async def find_input_fault(error: Exception, comparison: Comparison, render: RenderComparison) -> InputFault | None:
    """Find the parts of a comparison that an error comes from, by rendering each part without the others.

    Args:
        error: error of judging the comparison, see `is_input_error`.
        comparison: the comparison.
        render: renders a comparison.

    Returns:
        The fault. None if a plain comparison fails too: then the setup of the judge is at fault.

    Raises:
        JudgeError: another error of rendering.
    """
    responses = ("a",) * len(comparison.responses)
    plain = replace(comparison, prompt=(Message("user", "a"),), responses=responses)
    if not isinstance(error, MediaError) and await _find_problem(plain, render):
        return None
    contents: list[Response] = [message.content for message in comparison.prompt]
    prompt = replace(plain, prompt=comparison.prompt)
    problem = await _find_part_problem(error, contents, prompt, plain, render)
    if problem:
        return InputFault(problem.locate("prompt"))
    problems: list[_Problem | None] = []
    for k, response in enumerate(comparison.responses):
        part = replace(plain, responses=(*responses[:k], response, *responses[k + 1 :]))
        problems.append(await _find_part_problem(error, [response], part, plain, render))
    found = [problem.locate(f"responses[{k}]") for k, problem in enumerate(problems) if problem]
    if not found:
        return InputFault(describe_input_error(error))
    more = f" (and {len(found) - MAX_PROBLEMS} more)" if len(found) > MAX_PROBLEMS else ""
    return InputFault("; ".join(found[:MAX_PROBLEMS]) + more, tuple(p.locate() if p else "" for p in problems))


@dataclass(frozen=True)
class _Problem:
    """Problem of a part of a comparison."""

    text: str
    field: str = ""
    """Field of the row, if the medium at fault knows it."""

    def locate(self, place: str = "") -> str:
        """Describe the problem with its field, or else with a place."""
        return ": ".join(filter(None, (self.field or place, self.text)))


async def _find_part_problem(
    error: Exception, contents: list[Response], part: Comparison, plain: Comparison, render: RenderComparison
) -> _Problem | None:
    """Find the problem of the prompt or of one response; None if it can be rendered.

    Args:
        error: error of the whole comparison. For a MediaError, only media are rendered, one by one.
        contents: contents of the part.
        part: comparison with this part only.
        plain: comparison without any part.
        render: renders a comparison.
    """
    if not isinstance(error, MediaError):
        problem = await _find_problem(part, render)
        return _Problem(problem) if problem else None
    for medium in _iter_media(contents):
        problem = await _find_problem(replace(plain, prompt=(Message("user", (medium,)),)), render)
        if problem:
            return _Problem(problem, medium.origin)
    return None


async def _find_problem(comparison: Comparison, render: RenderComparison) -> str:
    try:
        await render(comparison)
    except Exception as e:
        if not is_input_error(e):
            raise
        return describe_input_error(e)
    return ""


def _iter_media(contents: list[Response]) -> Iterator[Media]:
    for content in contents:
        for part in split_content(content):
            if isinstance(part, Media):
                yield part
