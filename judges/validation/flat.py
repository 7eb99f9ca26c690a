"""The flat view of nested settings: their names on the command line, in YAML and in key=value arguments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.classes import SettingType, T, get_field_types


@dataclass(frozen=True, eq=False)  # hashable, as a member of a union must be
class SettingsSection:
    """How nested settings appear in the flat view of the settings that they are part of, as metadata of a field."""

    title: str = ""
    """Heading in the command line's help."""
    skip: frozenset[str] = frozenset()
    """Nested fields that are left out, because the outer class sets them."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Field name -> default, where it is not the nested class's own."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Field name -> allowed values on the command line and in files, where they are fewer than the field takes."""

    def merge_outer(self, outer: SettingsSection) -> SettingsSection:
        """Combine this section with the one around it, which wins except for the title."""
        return SettingsSection(
            self.title or outer.title,
            self.skip | outer.skip,
            {**self.defaults, **outer.defaults},
            {**self.choices, **outer.choices},
        )


TOP_LEVEL = SettingsSection()


@dataclass(frozen=True)
class Setting:
    """One setting in the flat view."""

    field: Field[Any]
    owner: type[Any]
    """Class that declares it."""
    kind: SettingType
    default: Any
    """MISSING for a setting without a default."""
    title: str = ""

    def check_value(self, value: Any, label: str, parse: bool = False) -> Any:
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
            raise UsageError(f"{label} must be {kind.type_description}, not {value!r}")
        return found


PARSERS: dict[type[Any], Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
    tuple: lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
}
"""Type of a setting -> what reads it from a text."""


def flatten_settings(cls: Any, section: SettingsSection = TOP_LEVEL) -> dict[str, Setting]:
    """The settings of a class by name, with those of nested classes among them.

    Nested classes may share a setting, such as a seed; the flat view has it once.
    """
    found: dict[str, Setting] = {}
    for f in fields(cls):
        if f.name in section.skip:
            continue
        kind = SettingType.from_annotation(get_field_types(cls)[f.name])
        if is_dataclass(kind.scalar):
            for name, inner in flatten_settings(kind.scalar, _find_section(kind).merge_outer(section)).items():
                found.setdefault(name, inner)
            continue
        if choices := section.choices.get(f.name, f.metadata.get("choices", ())):
            kind = replace(kind, choices=tuple(choices))
        default = section.defaults.get(f.name, f.default)
        found[f.name] = Setting(f, cls, kind, default, f.metadata.get("group") or section.title)
    return found


def build_settings(
    cls: type[T], values: Mapping[str, Any], spell: Callable[[str], str] = str, section: SettingsSection = TOP_LEVEL
) -> T:
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
    hints = get_field_types(owner)
    chosen: dict[str, Any] = {}
    for f in fields(owner):
        kind = SettingType.from_annotation(hints[f.name])
        if is_dataclass(kind.scalar):
            inner = _find_section(kind).merge_outer(section)
            chosen[f.name] = build_settings(kind.scalar, values, spell, inner)
        elif f.name in known:
            chosen[f.name] = known[f.name]
    try:
        return cls(**chosen)
    except UsageError as e:
        if e.setting is None:
            raise
        raise UsageError(str(e).replace(e.setting, spell(e.setting), 1)) from None


def flatten_values(instance: Any) -> dict[str, Any]:
    """The values of an instance by name, with those of nested instances among them."""
    values: dict[str, Any] = {}
    for f in fields(instance):
        value = getattr(instance, f.name)
        values = {**flatten_values(value), **values} if is_dataclass(value) else {**values, f.name: value}
    return values


def _find_section(kind: SettingType) -> SettingsSection:
    return next((item for item in kind.metadata if isinstance(item, SettingsSection)), TOP_LEVEL)
