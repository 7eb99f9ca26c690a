"""The rubrics that requests may name: those that come with the project, and files that the operator allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics import Rubric, load_rubric, rubric_names
from flex_judge.reward.server.decoding import suggestion
from flex_judge.reward.server.errors import FieldError


class RubricRegistry:
    """Finds rubrics by name; a name is never taken for a path."""

    def __init__(self, files: Sequence[str] = ()) -> None:
        """
        Args:
            files: rubrics of the operator's; a request calls one by its file's name without the ending.

        Raises:
            UsageError: a file is wrong or not there, or two rubrics have the same name.
        """
        self._presets = rubric_names()
        self._known: dict[str, Rubric] = {}
        for file in files:
            if not file.endswith(".toml"):
                problem = "expected the path of a TOML file; those of the project need no mention"
                raise UsageError(f"rubric {file!r}: {problem}")
            name = Path(file).stem
            if name in self._presets or name in self._known:
                raise UsageError(f"rubric {file!r}: there is a rubric {name!r} already; give the file another name")
            self._known[name] = load_rubric(file)

    def find(self, name: str, responses: int | None = None, field: str = "rubric") -> Rubric:
        """The rubric that a request names; its own `name` is what a judge finds it by.

        Args:
            responses: how many it is to be used for; None leaves that open.
            field: where the name stands in the request.

        Raises:
            FieldError: there is none, or it is not made for so many.
        """
        if name not in self._known:
            if name not in self._presets:
                hint = suggestion(name[:60], sorted({*self._presets, *self._known}))
                raise FieldError.at(field, f"rubric {name[:60]!r} does not exist; {hint}")
            self._known[name] = load_rubric(name)
        rubric = self._known[name]
        if responses is not None:
            try:
                rubric.check(responses)
            except UsageError as e:
                raise FieldError.at(field, str(e).replace(repr(rubric.name), repr(name))) from e
        return rubric
