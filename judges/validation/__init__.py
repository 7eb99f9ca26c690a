"""Validated settings: frozen dataclasses checked by pydantic (`classes`), and a flat view for CLI and YAML (`flat`).

May import errors only.
"""
