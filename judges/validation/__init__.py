"""Settings: frozen dataclasses checked by pydantic (`classes`), and their flat view for flags and YAML (`flat`).

May import errors only.
"""
