"""Flat view of nested settings, as used by CLI flags, YAML files and key=value arguments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.classes import SettingType, T, get_field_types


@dataclass(frozen=True, eq=False)  # eq=False keeps it hashable, which metadata of a union member must be
class SettingsSection:
    """How a nested settings class appears in the flat view, as metadata of the field that holds it."""

    title: str = ""
    """Heading in CLI help."""
    skip: frozenset[str] = frozenset()
    """Nested fields that are hidden because the outer class sets them."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Field name -> default that replaces the nested class's own."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Field name -> allowed values in CLI and files, if only a subset of the field's values is allowed there."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Field name -> its name in the flat view, if the two differ."""

    def get_flat_name(self, name: str) -> str:
        """Return the name of a field in the flat view."""
        return self.names.get(name, name)

    def merge_outer(self, outer: SettingsSection) -> SettingsSection:
        """Merge this section with the section around it; the outer section wins, except for the title."""
        return SettingsSection(
            self.title or outer.title,
            self.skip | outer.skip,
            {**self.defaults, **outer.defaults},
            {**self.choices, **outer.choices},
            {**self.names, **outer.names},
        )


TOP_LEVEL = SettingsSection()


@dataclass(frozen=True)
class Setting:
    """One setting of the flat view."""

    field: Field[Any]
    """The dataclass field."""
    owner: type[Any]
    """Class that declares the field."""
    kind: SettingType
    """Type, choices and bounds."""
    default: Any
    """Default value; `dataclasses.MISSING` for a required setting."""
    title: str = ""
    """Heading in CLI help."""

    def check_value(self, value: Any, label: str, parse: bool = False) -> Any:
        """Check the type of a value from a file or command line. Bounds are checked when an instance is created.

        Args:
            value: the value.
            label: name of the setting in error messages.
            parse: whether strings are parsed as other types, as in `key=value` arguments.

        Returns:
            The value, with lists as tuples.

        Raises:
            UsageError: the value has another type.
        """
        kind = self.kind
        if kind.is_optional and (value is None or (parse and value in ("null", "none"))):
            return None
        parsed = value
        if parse and isinstance(value, str):
            with contextlib.suppress(ValueError, KeyError):
                parsed = PARSERS[kind.scalar](value)
        if kind.scalar is float and type(parsed) is int:  # not isinstance, because True is an int
            return float(parsed)
        if kind.scalar is tuple and isinstance(parsed, list | tuple) and all(isinstance(text, str) for text in parsed):
            return tuple(parsed)
        if type(parsed) is not kind.scalar or kind.scalar is tuple or (kind.choices and parsed not in kind.choices):
            raise UsageError(f"{label} must be {kind.type_description}, not {value!r}")
        return parsed


PARSERS: dict[type[Any], Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
    tuple: lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
}
"""Type of a setting -> function that parses it from a string."""


def flatten_settings(cls: Any, section: SettingsSection = TOP_LEVEL) -> dict[str, Setting]:
    """List the settings of a class and of its nested classes by name.

    Nested classes may share a setting, such as a seed; the flat view contains it once.
    """
    settings: dict[str, Setting] = {}
    for f in fields(cls):
        if f.name in section.skip:
            continue
        kind = SettingType.from_annotation(get_field_types(cls)[f.name])
        if is_dataclass(kind.scalar):
            for name, inner in flatten_settings(kind.scalar, _merge_sections(kind, section)).items():
                settings.setdefault(name, inner)  # Own fields and earlier nested classes win.
            continue
        if choices := section.choices.get(f.name, f.metadata.get("choices", ())):
            kind = replace(kind, choices=tuple(choices))
        default = section.defaults.get(f.name, f.default)
        title = f.metadata.get("group") or section.title
        settings[section.get_flat_name(f.name)] = Setting(f, cls, kind, default=default, title=title)
    return settings


def build_settings(
    cls: type[T], values: Mapping[str, Any], spell: Callable[[str], str] = str, section: SettingsSection = TOP_LEVEL
) -> T:
    """Create an instance and its nested instances from flat values; the inverse of `flatten_values`.

    A class method `complete_values` of the class may add defaults that depend on other values.

    Args:
        cls: the settings class.
        values: setting name -> value; unknown names are ignored.
        spell: formats the name of a setting in error messages, for example as a CLI flag.
        section: how the class appears in the flat view of an outer class.

    Raises:
        UsageError: a value has another type, is out of bounds, or contradicts another value.
    """
    complete = getattr(cls, "complete_values", None)
    values = {name: value for name, value in values.items() if name not in section.skip}
    values = complete(values) if complete else values
    owner: Any = cls
    hints = get_field_types(owner)
    arguments: dict[str, Any] = {}
    for f in fields(owner):
        kind = SettingType.from_annotation(hints[f.name])
        if is_dataclass(kind.scalar):
            arguments[f.name] = build_settings(kind.scalar, values, spell, _merge_sections(kind, section))
        elif (name := section.get_flat_name(f.name)) in values:
            arguments[f.name] = values[name]
        elif f.name in section.defaults:
            arguments[f.name] = section.defaults[f.name]
    try:
        return cls(**arguments)
    except UsageError as e:
        if e.setting is None:
            raise
        name = section.get_flat_name(e.setting)
        raise UsageError(str(e).replace(e.setting, spell(name), 1)) from None


def flatten_values(instance: Any, section: SettingsSection = TOP_LEVEL) -> dict[str, Any]:
    """Return the values of an instance and of its nested instances by name."""
    owner: Any = type(instance)
    types = get_field_types(owner)
    values: dict[str, Any] = {}
    for f in fields(instance):
        value = getattr(instance, f.name)
        if is_dataclass(value):
            inner = _merge_sections(SettingType.from_annotation(types[f.name]), section)
            values = {**flatten_values(value, inner), **values}
        else:
            values[section.get_flat_name(f.name)] = value
    return values


def _merge_sections(kind: SettingType, outer: SettingsSection) -> SettingsSection:
    """Merge the section of a nested class with the section around it."""
    section = next((item for item in kind.metadata if isinstance(item, SettingsSection)), TOP_LEVEL)
    return section.merge_outer(outer)
