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

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
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

CONFIG: Any = {"strict": True, "allow_inf_nan": False, "extra": "forbid"}
"""pydantic converts int to float and nothing else: a text in place of a number is a mistake."""


@dataclass(frozen=True)
class Metavar:
    """Placeholder for the value of a setting in the command line's help, as metadata of its annotation."""

    text: str


@dataclass(frozen=True, eq=False)  # hashable, as a member of a union must be
class Section:
    """How nested settings appear in the flat view of the settings that they are part of, as metadata of a field."""

    title: str = ""
    """Heading in the command line's help."""
    skip: frozenset[str] = frozenset()
    """Nested fields that are left out, because the outer class sets them."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Field name -> default, where it is not the nested class's own."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Field name -> allowed values on the command line and in files, where they are fewer than the field takes."""

    def within(self, outer: Section) -> Section:
        """Combine this section with the one around it, which wins except for the title."""
        return Section(
            self.title or outer.title,
            self.skip | outer.skip,
            {**self.defaults, **outer.defaults},
            {**self.choices, **outer.choices},
        )


TOP = Section()
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
    made.__pydantic_config__ = CONFIG

    @functools.wraps(made.__init__)
    def check_and_set(self: Any, *args: Any, **kwargs: Any) -> None:
        from pydantic_core import ArgsKwargs, ValidationError

        try:
            _validator(made).validate_python(ArgsKwargs(args, kwargs), self_instance=self)
        except ValidationError as e:
            raise _usage_error(made, e) from None

    made.__init__ = check_and_set
    return made


@functools.cache
def _validator(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls).validator


def _usage_error(cls: Any, error: Any) -> Exception:
    """The first problem of a pydantic ValidationError, as one line."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "value_error":  # raised by a __post_init__
        cause: Exception = problem["ctx"]["error"]
        return cause
    place = problem["loc"][0]
    name = fields(cls)[place].name if isinstance(place, int) else place
    if problem["type"] == "missing":
        return UsageError(f"{name} is missing")
    hints = type_hints(cls)
    if name not in hints:
        return UsageError(f"unknown setting {name!r}; there are {', '.join(hints)}")
    kind = Kind.of(hints[name])
    allowed = kind.bounds or "a finite number" if problem["type"] in BOUND_ERRORS else kind.of_type
    found = UsageError(f"{name} must be {allowed}, not {problem['input']!r}")
    found.setting = name
    return found


@functools.cache
def type_hints(cls: Any) -> dict[str, Any]:
    """Field name -> annotation, with its metadata."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in fields(cls)}


@dataclass(frozen=True)
class Kind:
    """Which values a setting takes, as its annotation says."""

    scalar: type[Any]
    """int, float, str or bool; tuple for a tuple of texts; else the class itself."""
    is_optional: bool = False
    choices: tuple[str, ...] = ()
    metadata: tuple[Any, ...] = ()

    @classmethod
    def of(cls, annotation: Any) -> Kind:
        """The kind that an annotation describes."""
        origin = get_origin(annotation)
        if origin is Annotated:
            inner, *metadata = get_args(annotation)
            kind = cls.of(inner)
            return cls(kind.scalar, kind.is_optional, kind.choices, (*kind.metadata, *metadata))
        if origin in (Union, UnionType):
            (member,) = (member for member in get_args(annotation) if member is not type(None))
            kind = cls.of(member)
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
    def of_type(self) -> str:
        """The type in words, such as `of type int` or `one of fan, grill`."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return "a list of texts" if self.scalar is tuple else f"of type {self.scalar.__name__}"


@dataclass(frozen=True)
class Setting:
    """One setting in the flat view."""

    field: Field[Any]
    owner: type[Any]
    """Class that declares it."""
    kind: Kind
    default: Any
    """MISSING for a setting without a default."""
    title: str = ""

    def check(self, value: Any, label: str, parse: bool = False) -> Any:
        """Check a value that was read from a file or a command line.

        Args:
            label: what an error calls the setting.
            parse: whether a text stands for a value of another type, as in `key=value`.

        Returns:
            The value, a list as a tuple.

        Raises:
            UsageError: a value of a wrong type. Bounds are checked when an instance is made.
        """
        kind = self.kind
        if kind.is_optional and (value is None or (parse and value in ("null", "none"))):
            return None
        found = value
        if parse and isinstance(value, str):
            with contextlib.suppress(ValueError, KeyError):
                found = PARSERS[kind.scalar](value)
        if kind.scalar is float and type(found) is int:  # bool is a subclass of int, and no number to a person
            return float(found)
        if kind.scalar is tuple and isinstance(found, list | tuple) and all(isinstance(text, str) for text in found):
            return tuple(found)
        if type(found) is not kind.scalar or kind.scalar is tuple or (kind.choices and found not in kind.choices):
            raise UsageError(f"{label} must be {kind.of_type}, not {value!r}")
        return found


PARSERS: dict[type[Any], Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
    tuple: lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
}
"""Type of a setting -> what reads it from a text."""


def flatten(cls: Any, section: Section = TOP) -> dict[str, Setting]:
    """The settings of a class by name, with those of nested classes among them.

    Nested classes may share a setting, such as a seed; the flat view has it once.
    """
    found: dict[str, Setting] = {}
    for f in fields(cls):
        if f.name in section.skip:
            continue
        kind = Kind.of(type_hints(cls)[f.name])
        if is_dataclass(kind.scalar):
            for name, inner in flatten(kind.scalar, _section_of(kind).within(section)).items():
                found.setdefault(name, inner)
            continue
        if choices := section.choices.get(f.name, f.metadata.get("choices", ())):
            kind = replace(kind, choices=tuple(choices))
        default = section.defaults.get(f.name, f.default)
        found[f.name] = Setting(f, cls, kind, default, f.metadata.get("group") or section.title)
    return found


def from_flat(cls: type[T], values: Mapping[str, Any], spell: Callable[[str], str] = str, section: Section = TOP) -> T:
    """Make an instance, with its nested ones, from values by name; the inverse of `flatten`.

    Args:
        values: names that the class does not have are ignored. A class method `complete_values` may add defaults that
            depend on other values.
        spell: spells a setting's name in an error.

    Raises:
        UsageError: a value of a wrong type or out of its bounds, or two that do not go together.
    """
    complete = getattr(cls, "complete_values", None)
    values = {name: value for name, value in values.items() if name not in section.skip}
    values = complete(values) if complete else values
    known = {**section.defaults, **values}
    owner: Any = cls
    hints = type_hints(owner)
    chosen: dict[str, Any] = {}
    for f in fields(owner):
        kind = Kind.of(hints[f.name])
        if is_dataclass(kind.scalar):
            inner = _section_of(kind).within(section)
            chosen[f.name] = from_flat(kind.scalar, values, spell, inner)
        elif f.name in known:
            chosen[f.name] = known[f.name]
    try:
        return cls(**chosen)
    except UsageError as e:
        if e.setting is None:
            raise
        raise UsageError(str(e).replace(e.setting, spell(e.setting), 1)) from None


def flat_values(instance: Any) -> dict[str, Any]:
    """The values of an instance by name, with those of nested instances among them."""
    values: dict[str, Any] = {}
    for f in fields(instance):
        value = getattr(instance, f.name)
        values = {**flat_values(value), **values} if is_dataclass(value) else {**values, f.name: value}
    return values


def _section_of(kind: Kind) -> Section:
    return next((item for item in kind.metadata if isinstance(item, Section)), TOP)
