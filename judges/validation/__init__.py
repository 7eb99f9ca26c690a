"""Checked input of users: settings and text files.

Settings are frozen dataclasses checked by pydantic (`classes`), with a flat view for CLI and YAML (`flat`). Text files
may have any encoding and compression (`text_files`). Numbers from elsewhere become plain floats (`floats`).

May import errors and extras only.
"""
