"""Checked input of users: settings and text files.

Settings are frozen dataclasses checked by pydantic (`classes`), with a flat view for CLI and YAML (`flat`). Text files
may have any encoding and compression (`text_files`). Parsed JSON is checked for repeated fields and depth
(`json_structure`). Numbers from elsewhere become plain floats (`floats`).

May import errors and extras only.
"""
