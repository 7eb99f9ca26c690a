"""Settings classes: frozen dataclasses whose annotations declare bounds that pydantic checks.

Each setting is declared once. Bounds are part of the annotation, a fixed set of values is a `Literal`, and the
docstring below the field is its help text on the command line:

    @settings_class
    class Oven:
        temperature: Annotated[int, Interval(ge=50, le=250)] = 180
        "Temperature in degrees Celsius."
        mode: Literal["fan", "grill"] = "fan"
        "Heating mode."

`Oven(temperature=20)` raises `UsageError: temperature must be from 50 to 250, not 20`. Rules across fields go into
`__post_init__`. pydantic is imported when the first instance is created, so that importing settings modules is cheap.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt

from flex_judge.judges.errors import UsageError, suggest_name

T = TypeVar("T")

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(gt=0, le=1)]
"""Number above 0 and at most 1."""
Share = Annotated[float, Interval(ge=0, le=1)]
"""Number from 0 to 1."""
Confidence = Annotated[float, Interval(ge=0.5, le=1)]
"""Probability that the more likely of two outcomes is correct."""

PYDANTIC_CONFIG: Any = {"strict": True, "allow_inf_nan": False, "extra": "forbid"}
"""pydantic configuration. Strict mode converts int to float and nothing else, so "5" for a number is an error."""


@dataclass(frozen=True)
class Metavar:
    """Placeholder for a setting's value in CLI help, as metadata of its annotation."""

    text: str


BOUND_ERRORS = ("greater_than_equal", "greater_than", "less_than_equal", "less_than", "finite_number")
"""pydantic error types for a number that is out of bounds."""


@overload
def settings_class(cls: type[T], /) -> type[T]: ...
@overload
def settings_class(*, kw_only: bool = False) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def settings_class(cls: Any = None, /, *, kw_only: bool = False) -> Any:
    """Turn a class into a frozen dataclass that validates its fields on construction.

    The constructor raises UsageError for an unknown field, a value of another type, or a value out of bounds.
    `UsageError.setting` names the field.

    Args:
        cls: the class, if the decorator is used without parentheses.
        kw_only: whether all fields are keyword-only.
    """
    if cls is None:
        return functools.partial(settings_class, kw_only=kw_only)
    settings: Any = dataclass(frozen=True, kw_only=kw_only)(cls)
    settings.__pydantic_config__ = PYDANTIC_CONFIG

    # pydantic's own dataclass decorator would import pydantic with the module, so only __init__ is replaced.
    @functools.wraps(settings.__init__)
    def check_and_set(self: Any, *args: Any, **kwargs: Any) -> None:
        from pydantic_core import ArgsKwargs, ValidationError

        try:
            _build_validator(settings).validate_python(ArgsKwargs(args, kwargs), self_instance=self)
        except ValidationError as e:
            raise _to_usage_error(settings, e) from None

    settings.__init__ = check_and_set
    return settings


# Building a validator takes milliseconds, and media limits are created for every prompt.
@functools.cache
def _build_validator(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls).validator


def _to_usage_error(cls: Any, error: Any) -> Exception:
    """Convert the first problem of a pydantic ValidationError to a one-line UsageError."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "value_error":  # an error that __post_init__ raised
        cause: Exception = problem["ctx"]["error"]
        return cause
    location = problem["loc"][0]  # index of a positional argument, or name of a field
    name = fields(cls)[location].name if isinstance(location, int) else location
    if problem["type"] == "missing":
        return UsageError(f"{name} is missing")
    hints = get_field_types(cls)
    if name not in hints:
        return UsageError(f"unknown setting {name!r}; {suggest_name(str(name), hints)}")
    kind = SettingType.from_annotation(hints[name])
    allowed = kind.bounds or "a finite number" if problem["type"] in BOUND_ERRORS else kind.type_description
    usage_error = UsageError(f"{name} must be {allowed}, not {problem['input']!r}")
    usage_error.setting = name
    return usage_error


@functools.cache
def get_field_types(cls: Any) -> dict[str, Any]:
    """Return the annotation of each field by its name, including metadata."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls)}


@dataclass(frozen=True)
class SettingType:
    """Type, choices and bounds of a setting, read from its annotation."""

    scalar: type[Any]
    """int, float, str or bool; tuple for a tuple of strings; otherwise the class itself."""
    is_optional: bool = False
    """Whether None is allowed."""
    choices: tuple[str, ...] = ()
    """Allowed values of a `Literal`."""
    metadata: tuple[Any, ...] = ()
    """Metadata of `Annotated`, such as bounds."""

    @classmethod
    def from_annotation(cls, annotation: Any) -> SettingType:
        """Read the type from an annotation: a class, `Literal`, `Annotated` or optional type."""
        origin = get_origin(annotation)
        if origin is Annotated:
            inner, *metadata = get_args(annotation)
            kind = cls.from_annotation(inner)
            return cls(kind.scalar, kind.is_optional, kind.choices, (*kind.metadata, *metadata))
        if origin in (Union, UnionType):
            (member,) = (member for member in get_args(annotation) if member is not type(None))
            kind = cls.from_annotation(member)
            return cls(kind.scalar, True, kind.choices, kind.metadata)
        if origin is Literal:
            return cls(str, choices=get_args(annotation))
        return cls(origin or annotation)

    @property
    def bounds(self) -> str:
        """Bounds in words, such as `at least 1` or `above 0 and at most 1`; empty without bounds."""
        limits: dict[str, float] = {}
        for item in self.metadata:
            for bound in item if isinstance(item, GroupedMetadata) else (item,):
                if isinstance(bound, Ge | Gt | Le | Lt):
                    name = type(bound).__name__.lower()
                    limits[name] = getattr(bound, name)
        if "ge" in limits and "le" in limits:
            return f"from {limits['ge']} to {limits['le']}"
        texts = []
        if "ge" in limits:
            is_only_limit = len(limits) == 1 and self.scalar is int
            texts.append(f"at least {limits['ge']}" if is_only_limit else f"{limits['ge']} or more")
        templates = {"gt": "above {}", "lt": "below {}", "le": "at most {}"}
        texts += [text.format(limits[name]) for name, text in templates.items() if name in limits]
        return " and ".join(texts)

    @property
    def type_description(self) -> str:
        """Type in words, such as `of type int` or `one of fan, grill`."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return "a list of texts" if self.scalar is tuple else f"of type {self.scalar.__name__}"
