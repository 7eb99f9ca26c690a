"""Ledger: an SQLite file that stores every generation, so that nothing is computed twice and a crash loses no work.

It stores generations, not judgments: reasoning survives a run that dies before the answer, and everything derived from
generations (forced answers, verdicts, votes) can be reproduced by newer code without the model.

Many threads and processes of one machine can write to a ledger at the same time. It must be on a local disk: SQLite's
write-ahead log needs shared memory, which network file systems do not provide. While a ledger is in use, two more files
(`-wal`, `-shm`) belong to it. A killed process loses nothing that `put` has returned; a power cut can lose the last
moments. Entries are never deleted or replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flex_judge.judges.engines.base import Generation, Sampling
from flex_judge.judges.errors import LedgerError
from flex_judge.judges.media.prepared import PreparedMedia

SCHEMA = 1
"""Version of the tables; increment it when they change."""
KEY_FORMAT = 2
"""Version of the keys; increment it when engines start to answer the same request differently."""
APPLICATION = 0x464C4A44  # application id in the file header; distinguishes a ledger from other SQLite files
BUSY_S = 60.0  # how long to wait for other writing processes
REMEDY = "move the file away, or use --no-ledger"

TABLES = (
    "CREATE TABLE IF NOT EXISTS generations (key BLOB NOT NULL UNIQUE, value BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS models (engine TEXT NOT NULL, model_id TEXT NOT NULL, profile TEXT NOT NULL, "
    "max_model_len INTEGER NOT NULL, tokenizer BLOB NOT NULL, UNIQUE (engine, model_id))",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {SCHEMA}",
)


@dataclass(frozen=True)
class RecordedModel:
    """Model whose generations a ledger holds, with the properties of its engine."""

    engine: str
    """Name of the engine that ran the model."""
    model_id: str
    """Name and fingerprint of the model."""
    profile: str
    """Name of the model family, a key of `flex_judge.judges.models.profiles.PROFILES`."""
    max_model_len: int
    """Largest context length that the model was run with, in tokens."""


class Ledger:
    """Store of generations by key. Methods block and can be called from any thread.

    Every method raises LedgerError, with a one-line message that names the file, if the file cannot be read or
    written, is damaged, or is not a ledger of this version.

    Example:
        >>> with Ledger("ledger.sqlite") as ledger:
        ...     key = compute_generation_key(engine.name, engine.model_id, prompt, sampling)
        ...     generation = ledger.get(key) or ledger.put(key, await engine.generate(prompt, sampling))
    """

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        """Open the ledger at `path`; create it and its folder unless `read_only`."""
        self.path = Path(path).expanduser()
        self._lock = threading.Lock()
        self._check_path(read_only)
        try:
            self._db = sqlite3.connect(
                _build_uri(self.path, read_only),
                uri=True,
                timeout=BUSY_S,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as e:
            raise self._wrap_error(e) from e
        try:
            self._prepare_schema(read_only)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of generations."""
        count: int = self._execute_sql("SELECT count(*) FROM generations")[0][0]
        return count

    def get(self, key: bytes) -> Generation | None:
        """Return the generation stored under `key`, or None."""
        rows = self._execute_sql("SELECT value FROM generations WHERE key = ?", key)
        return self._decode_generation(key, rows[0][0]) if rows else None

    def put(self, key: bytes, generation: Generation) -> Generation:
        """Store a generation durably: after this returns, killing the process does not lose it.

        Returns:
            The generation in the ledger: this one, or the one that another process stored first. Callers must use the
            returned one, so that a run and its replay agree.
        """
        value = _encode_generation(generation)
        self._execute_sql("INSERT INTO generations (key, value) VALUES (?, ?) ON CONFLICT DO NOTHING", key, value)
        stored = self._execute_sql("SELECT value FROM generations WHERE key = ?", key)[0][0]
        return generation if stored == value else self._decode_generation(key, stored)

    def list_models(self) -> list[RecordedModel]:
        """List the recorded models, oldest first."""
        columns = "engine, model_id, profile, max_model_len"
        return [RecordedModel(*row) for row in self._execute_sql(f"SELECT {columns} FROM models ORDER BY rowid")]

    def add_model(self, model: RecordedModel, tokenizer: bytes) -> None:
        """Record a model and the files of its tokenizer; for a known model, only raise `max_model_len`.

        Args:
            model: the model.
            tokenizer: zip archive of the tokenizer's files.
        """
        self._execute_sql(
            "INSERT INTO models (engine, model_id, profile, max_model_len, tokenizer) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET max_model_len = max(max_model_len, excluded.max_model_len)",
            *(model.engine, model.model_id, model.profile, model.max_model_len, tokenizer),
        )

    def read_tokenizer(self, model: RecordedModel) -> bytes:
        """Read the tokenizer of a recorded model, as passed to `add_model`.

        Raises:
            LookupError: the model is not in the ledger.
        """
        query = "SELECT tokenizer FROM models WHERE engine = ? AND model_id = ?"
        rows = self._execute_sql(query, model.engine, model.model_id)
        if not rows:
            raise LookupError(f"{self.path}: has no model {model.model_id!r} of engine {model.engine!r}")
        files: bytes = rows[0][0]
        return files

    def close(self) -> None:
        """Close the file. Idempotent; no other method may be called afterwards."""
        with self._lock:
            self._db.close()

    def _check_path(self, read_only: bool) -> None:
        """Check for problems that SQLite would report with unhelpful messages."""
        if self.path.is_dir():
            raise LedgerError(f"{self.path}: is a folder, expected a file; name a file in it, or use --no-ledger")
        if read_only:
            if not self.path.is_file():
                raise LedgerError(f"{self.path}: there is no such ledger; name a file that an earlier run recorded")
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise LedgerError(f"{self.path}: its folder cannot be created ({e.strerror}); {REMEDY}") from e
        for path, label in ((self.path.parent, "its folder"), (self.path, "the file")):
            if path.exists() and not os.access(path, os.W_OK):
                raise LedgerError(
                    f"{self.path}: {label} cannot be written; name a ledger elsewhere, or use --no-ledger"
                )

    def _prepare_schema(self, read_only: bool) -> None:
        """Check that the file is a ledger of this version; create the tables in an empty file."""
        # One statement reads both: another process may be creating the tables at this moment.
        identity = "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema) FROM "
        identity += "pragma_application_id, pragma_user_version"
        application, version, tables = self._execute_sql(identity)[0]
        empty = (application, version, tables) == (0, 0, 0)
        if application != APPLICATION and (read_only or not empty):
            raise LedgerError(f"{self.path}: is an SQLite file but not a ledger; name another file, or use --no-ledger")
        if application == APPLICATION and version != SCHEMA:
            raise LedgerError(
                f"{self.path}: is a ledger of version {version}, this program supports version {SCHEMA}; {REMEDY}"
            )
        if read_only:
            self._execute_sql("PRAGMA query_only = ON")
            return
        mode = self._execute_sql("PRAGMA journal_mode = WAL")[0][0]
        if mode != "wal":
            raise LedgerError(
                f"{self.path}: its file system does not support shared memory between processes; name a ledger on a "
                "local disk, or use --no-ledger"
            )
        # With a write-ahead log, NORMAL survives the death of a process and is much faster than FULL.
        self._execute_sql("PRAGMA synchronous = NORMAL")
        if empty:
            for statement in ("BEGIN IMMEDIATE", *TABLES, "COMMIT"):
                self._execute_sql(statement)

    def _execute_sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement in its own transaction and return its rows."""
        deadline = time.monotonic() + BUSY_S
        with self._lock:
            while True:
                try:
                    return self._db.execute(statement, values).fetchall()
                except sqlite3.Error as e:
                    # SQLite's own timeout does not cover the first opening and the last closing of the log.
                    if _get_error_code(e) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise self._wrap_error(e) from e
                time.sleep(0.005)

    def _decode_generation(self, key: bytes, value: Any) -> Generation:
        try:
            row = json.loads(zlib.decompress(value))
            row["logprobs"] = tuple({int(token): p for token, p in step.items()} for step in row["logprobs"])
            return Generation(**row | {"token_ids": tuple(row["token_ids"])})
        except (zlib.error, ValueError, TypeError, KeyError, AttributeError) as e:
            raise LedgerError(f"{self.path}: generation {key.hex()[:12]} is damaged; {REMEDY}") from e

    def _wrap_error(self, error: sqlite3.Error) -> LedgerError:
        remedy = {
            sqlite3.SQLITE_FULL: "free disk space and rerun the command, which reuses the recorded generations",
            sqlite3.SQLITE_BUSY: f"another process has locked it for {BUSY_S:.0f} s; end that one, or use --no-ledger",
            sqlite3.SQLITE_CANTOPEN: "check that its folder is writable, or use --no-ledger",
        }.get(_get_error_code(error), REMEDY)
        return LedgerError(f"{self.path}: the ledger cannot be used ({error}); {remedy}")


def compute_generation_key(
    engine: str,
    model_id: str,
    prompt_token_ids: Sequence[int],
    sampling: Sampling,
    media: Sequence[PreparedMedia] = (),
) -> bytes:
    """Hash everything that determines a generation into 32 bytes (SHA-256).

    Dtype and batching are left out: they only affect rounding, which differs between two runs on one machine too.

    Args:
        engine: name of the engine. Engines round differently, so the same model samples differently in each.
        model_id: name and fingerprint of the model.
        prompt_token_ids: token ids from 0 to 2**32 - 1.
        sampling: all fields count, including those that engines ignore, except a seed of None.
        media: media of the prompt, in order; their digests count.
    """
    sampling_fields = asdict(sampling)
    if sampling.seed is None:  # uses the engine's own generator, so it is not part of the request
        del sampling_fields["seed"]
    parts = {
        "format": KEY_FORMAT,
        "engine": engine,
        "model": model_id,
        "media": [medium.digest for medium in media],
        "sampling": {name: _normalise_number(value) for name, value in sampling_fields.items()},
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode() + b"\n")
    digest.update(struct.pack(f"<{len(prompt_token_ids)}I", *prompt_token_ids))
    return digest.digest()


def _normalise_number(value: Any) -> Any:
    """Turn 1.0 into 1, because both request the same."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _encode_generation(generation: Generation) -> bytes:
    """Encode a generation as JSON, whose keys are strings, and compress it with zlib, which adds a checksum."""
    return zlib.compress(json.dumps(vars(generation) | {"logprobs": list(map(dict, generation.logprobs))}).encode())


def _get_error_code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 255, an unused code, for errors of the Python module itself."""
    return int(getattr(error, "sqlite_errorcode", -1)) & 0xFF


def _build_uri(path: Path, read_only: bool) -> str:
    """Build the SQLite URI for a ledger.

    Readers use the shared write-ahead log as well, unless they have no write access. `immutable` then lets them read
    without locks, which is safe only if no other process has the ledger open.
    """
    address = path.absolute().as_uri()
    if not read_only:
        with suppress(OSError):  # SQLite reports the problem better
            path.touch(mode=0o600)
        return f"{address}?mode=rwc"
    if os.access(path.parent, os.W_OK) and os.access(path, os.W_OK):
        return f"{address}?mode=rw"
    in_use = path.with_name(f"{path.name}-wal").exists()
    return f"{address}?mode=ro" if in_use else f"{address}?mode=ro&immutable=1"
