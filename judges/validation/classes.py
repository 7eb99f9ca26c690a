"""Settings: frozen dataclasses whose bounds are declared in their annotations and checked by pydantic.

Declare a setting once, where it belongs. A bound is part of the annotation, a fixed set of values is a `Literal`, and
the docstring below the field is its help on the command line:

    @settings_class
    class Oven:
        temperature: Annotated[int, Interval(ge=50, le=250)] = 180
        "Temperature in degrees Celsius."
        mode: Literal["fan", "grill"] = "fan"
        "Heating mode."

`Oven(temperature=20)` raises `UsageError: temperature must be from 50 to 250, not 20`. Rules over several
fields go into `__post_init__`. pydantic is imported when the first instance is made, so importing a module of settings
stays cheap.
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

from flex_judge.judges.errors import UsageError

T = TypeVar("T")

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(gt=0, le=1)]
"""A share that is not zero."""
Share = Annotated[float, Interval(ge=0, le=1)]
Confidence = Annotated[float, Interval(ge=0.5, le=1)]
"""Probability that the more likely of two outcomes is right."""

PYDANTIC_CONFIG: Any = {"strict": True, "allow_inf_nan": False, "extra": "forbid"}
"""pydantic converts int to float and nothing else: a text in place of a number is a mistake."""


@dataclass(frozen=True)
class Metavar:
    """Placeholder for the value of a setting in the command line's help, as metadata of its annotation."""

    text: str


BOUND_ERRORS = ("greater_than_equal", "greater_than", "less_than_equal", "less_than", "finite_number")
"""Types of pydantic's errors for a number out of its bounds."""


@overload
def settings_class(cls: type[T], /) -> type[T]: ...
@overload
def settings_class(*, kw_only: bool = False) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def settings_class(cls: Any = None, /, *, kw_only: bool = False) -> Any:
    """Make a class a frozen dataclass that checks its values when an instance is made.

    Making an instance raises UsageError for an unknown field, or a value of a wrong type or out of its bounds;
    `UsageError.setting` names the field.
    """
    if cls is None:
        return functools.partial(settings_class, kw_only=kw_only)
    made: Any = dataclass(frozen=True, kw_only=kw_only)(cls)
    made.__pydantic_config__ = PYDANTIC_CONFIG

    @functools.wraps(made.__init__)
    def check_and_set(self: Any, *args: Any, **kwargs: Any) -> None:
        from pydantic_core import ArgsKwargs, ValidationError

        try:
            _build_validator(made).validate_python(ArgsKwargs(args, kwargs), self_instance=self)
        except ValidationError as e:
            raise _to_usage_error(made, e) from None

    made.__init__ = check_and_set
    return made


@functools.cache
def _build_validator(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls).validator


def _to_usage_error(cls: Any, error: Any) -> Exception:
    """The first problem of a pydantic ValidationError, as one line."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "value_error":  # raised by a __post_init__
        cause: Exception = problem["ctx"]["error"]
        return cause
    place = problem["loc"][0]
    name = fields(cls)[place].name if isinstance(place, int) else place
    if problem["type"] == "missing":
        return UsageError(f"{name} is missing")
    hints = get_field_types(cls)
    if name not in hints:
        return UsageError(f"unknown setting {name!r}; there are {', '.join(hints)}")
    kind = SettingType.from_annotation(hints[name])
    allowed = kind.bounds or "a finite number" if problem["type"] in BOUND_ERRORS else kind.type_description
    found = UsageError(f"{name} must be {allowed}, not {problem['input']!r}")
    found.setting = name
    return found


@functools.cache
def get_field_types(cls: Any) -> dict[str, Any]:
    """Field name -> annotation, with its metadata."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls)}


@dataclass(frozen=True)
class SettingType:
    """Which values a setting takes, as its annotation says."""

    scalar: type[Any]
    """int, float, str or bool; tuple for a tuple of texts; else the class itself."""
    is_optional: bool = False
    choices: tuple[str, ...] = ()
    metadata: tuple[Any, ...] = ()

    @classmethod
    def from_annotation(cls, annotation: Any) -> SettingType:
        """The kind that an annotation describes."""
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
        """The bounds in words, such as `at least 1` or `above 0 and at most 1`; empty if there are none."""
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
            alone = len(limits) == 1 and self.scalar is int
            texts.append(f"at least {limits['ge']}" if alone else f"{limits['ge']} or more")
        templates = {"gt": "above {}", "lt": "below {}", "le": "at most {}"}
        texts += [text.format(limits[name]) for name, text in templates.items() if name in limits]
        return " and ".join(texts)

    @property
    def type_description(self) -> str:
        """The type in words, such as `of type int` or `one of fan, grill`."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return "a list of texts" if self.scalar is tuple else f"of type {self.scalar.__name__}"
