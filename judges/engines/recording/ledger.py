"""The ledger: one SQLite file that keeps every generation, so that nothing is computed twice and no crash loses work.

Generations are kept, not judgments: thinking survives a run that dies before the answer, and whatever is made out of
generations (forced answers, verdicts, votes) can be made again, without the model, by newer code.

Many threads and processes of one machine may write to one ledger at a time. It belongs on a local disk: SQLite's
write-ahead log needs memory that its users share, which network file systems do not give. While a ledger is in use,
two files beside it (`-wal`, `-shm`) are part of it. The death of a process loses nothing that `put` has returned; a
power cut may lose the last moments. Nothing is ever deleted or replaced.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flex_judge.judges.engines.base import Generation, Sampling
from flex_judge.judges.errors import LedgerError
from flex_judge.judges.media.prepared import PreparedMedia

SCHEMA = 1
"""Version of the tables; raise it when they change."""
KEY_FORMAT = 2
"""Version of what a key is made of; raise it when engines come to answer the same request differently."""
APPLICATION = 0x464C4A44  # in the header of the file: tells a ledger from any other SQLite file
BUSY_S = 60.0  # how long to wait for other processes that write
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
    """A model that wrote to a ledger: what its engine was to those who asked it."""

    engine: str
    """Name of the engine that ran it."""
    model_id: str
    """Name and fingerprint."""
    profile: str
    """A key of `flex_judge.judges.models.profiles.PROFILES`."""
    max_model_len: int
    """In tokens: the largest it was run with."""


class Ledger:
    """Generations by what determines them. Methods block; they may be called from any thread.

    Every method raises LedgerError, one line that names the file, where the file cannot be read or written, is
    damaged, or is no ledger of this version.

    Example:
        >>> with Ledger("ledger.sqlite") as ledger:
        ...     key = generation_key(engine.name, engine.model_id, prompt, sampling)
        ...     generation = ledger.get(key) or ledger.put(key, await engine.generate(prompt, sampling))
    """

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        """Open the ledger at `path`; it and its folder are made unless `read_only`."""
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
        """How many generations are in it."""
        count: int = self._execute_sql("SELECT count(*) FROM generations")[0][0]
        return count

    def get(self, key: bytes) -> Generation | None:
        """The generation stored under `key`, exactly as it was put; None if there is none."""
        rows = self._execute_sql("SELECT value FROM generations WHERE key = ?", key)
        return self._decode_generation(key, rows[0][0]) if rows else None

    def put(self, key: bytes, generation: Generation) -> Generation:
        """Store a generation; when this returns, the death of this process does not lose it.

        Returns:
            The generation that the ledger holds: this one, or what somebody else stored first. Going on with that one
            makes a run and its replay the same.
        """
        value = _encode_generation(generation)
        self._execute_sql("INSERT INTO generations (key, value) VALUES (?, ?) ON CONFLICT DO NOTHING", key, value)
        stored = self._execute_sql("SELECT value FROM generations WHERE key = ?", key)[0][0]
        return generation if stored == value else self._decode_generation(key, stored)

    def list_models(self) -> list[RecordedModel]:
        """The models that wrote to it, oldest first."""
        columns = "engine, model_id, profile, max_model_len"
        return [RecordedModel(*row) for row in self._execute_sql(f"SELECT {columns} FROM models ORDER BY rowid")]

    def add_model(self, model: RecordedModel, tokenizer: bytes) -> None:
        """Note a model and the files of its tokenizer (a zip archive). Of one that is there, only `max_model_len` can
        change: it grows.
        """
        self._execute_sql(
            "INSERT INTO models (engine, model_id, profile, max_model_len, tokenizer) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET max_model_len = max(max_model_len, excluded.max_model_len)",
            *(model.engine, model.model_id, model.profile, model.max_model_len, tokenizer),
        )

    def read_tokenizer(self, model: RecordedModel) -> bytes:
        """The files of a recorded model's tokenizer, as they were given to `add_model`.

        Raises:
            LookupError: the model is not in the ledger.
        """
        where = "engine = ? AND model_id = ?"
        rows = self._execute_sql(f"SELECT tokenizer FROM models WHERE {where}", model.engine, model.model_id)
        if not rows:
            raise LookupError(f"{self.path}: holds no model {model.model_id!r} of engine {model.engine!r}")
        files: bytes = rows[0][0]
        return files

    def close(self) -> None:
        """Close the file. Idempotent; nothing else may be called afterwards."""
        with self._lock:
            self._db.close()

    def _check_path(self, read_only: bool) -> None:
        """The mistakes that SQLite would call by unhelpful names."""
        if self.path.is_dir():
            raise LedgerError(f"{self.path}: is a folder; a ledger is a file: name one in it, or use --no-ledger")
        if read_only:
            if not self.path.is_file():
                raise LedgerError(f"{self.path}: there is no such ledger; name a file that a run with a ledger wrote")
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise LedgerError(f"{self.path}: its folder cannot be made ({e.strerror}); {REMEDY}") from e
        for place in (self.path.parent, self.path):
            if place.exists() and not os.access(place, os.W_OK):
                raise LedgerError(
                    f"{self.path}: {'it' if place == self.path else 'its folder'} cannot be written; name a ledger "
                    "elsewhere, or use --no-ledger"
                )

    def _prepare_schema(self, read_only: bool) -> None:
        """Make sure that the file is a ledger of this version; make an empty file one."""
        # Both in one statement: another process may be making the tables at this moment.
        identity = "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema) FROM "
        identity += "pragma_application_id, pragma_user_version"
        application, version, tables = self._execute_sql(identity)[0]
        empty = (application, version, tables) == (0, 0, 0)
        if application != APPLICATION and (read_only or not empty):
            raise LedgerError(f"{self.path}: is an SQLite file but no ledger; name another file, or use --no-ledger")
        if application == APPLICATION and version != SCHEMA:
            raise LedgerError(
                f"{self.path}: is a ledger of version {version}, and this is a program for version {SCHEMA}; {REMEDY}"
            )
        if read_only:
            self._execute_sql("PRAGMA query_only = ON")
            return
        mode = self._execute_sql("PRAGMA journal_mode = WAL")[0][0]
        if mode != "wal":
            raise LedgerError(
                f"{self.path}: its file system cannot share memory between processes; name a ledger on a local disk, "
                "or use --no-ledger"
            )
        self._execute_sql("PRAGMA synchronous = NORMAL")
        if empty:
            for statement in ("BEGIN IMMEDIATE", *TABLES, "COMMIT"):
                self._execute_sql(statement)

    def _execute_sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement, alone in its transaction, and return its rows."""
        deadline = time.monotonic() + BUSY_S
        with self._lock:
            while True:
                try:
                    return self._db.execute(statement, values).fetchall()
                except sqlite3.Error as e:
                    # SQLite waits by itself except while the log is opened for the first or closed for the last time.
                    if _get_error_code(e) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                        raise self._wrap_error(e) from e
                time.sleep(0.005)

    def _decode_generation(self, key: bytes, value: Any) -> Generation:
        try:
            row = json.loads(zlib.decompress(value))
            row["logprobs"] = tuple({int(token): p for token, p in at.items()} for at in row["logprobs"])
            return Generation(**row | {"token_ids": tuple(row["token_ids"])})
        except (zlib.error, ValueError, TypeError, KeyError, AttributeError) as e:
            raise LedgerError(f"{self.path}: the generation {key.hex()[:12]} in it is damaged; {REMEDY}") from e

    def _wrap_error(self, error: sqlite3.Error) -> LedgerError:
        remedy = {
            sqlite3.SQLITE_FULL: "make room and run the same again: what is in the ledger is not computed twice",
            sqlite3.SQLITE_BUSY: f"another process has held it for {BUSY_S:.0f} s: end that one, or use --no-ledger",
            sqlite3.SQLITE_CANTOPEN: "check that its folder can be written, or use --no-ledger",
        }.get(_get_error_code(error), REMEDY)
        return LedgerError(f"{self.path}: the ledger cannot be used ({error}); {remedy}")


def compute_generation_key(
    engine: str,
    model_id: str,
    prompt_token_ids: Sequence[int],
    sampling: Sampling,
    media: Sequence[PreparedMedia] = (),
) -> bytes:
    """SHA-256 (32 bytes) of everything that determines a generation, but for the rounding of the machine that makes it:
    number format and batching are left out, as two runs on one machine differ in them too.

    Args:
        engine: name of the engine: engines round differently, so the same model samples differently in each.
        model_id: name and fingerprint of the model.
        prompt_token_ids: each from 0 to 2**32 - 1.
        sampling: all fields count, also those that engines ignore; a seed that is None does not.
        media: their digests count, in their order.
    """
    asked = asdict(sampling)
    if sampling.seed is None:  # the engine's own generator: not part of the request
        del asked["seed"]
    parts = {
        "format": KEY_FORMAT,
        "engine": engine,
        "model": model_id,
        "media": [medium.digest for medium in media],
        "sampling": {name: _normalise_number(value) for name, value in asked.items()},
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode() + b"\n")
    digest.update(struct.pack(f"<{len(prompt_token_ids)}I", *prompt_token_ids))
    return digest.digest()


def _normalise_number(value: Any) -> Any:
    """1 and 1.0 ask for the same."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _encode_generation(generation: Generation) -> bytes:
    """All fields as compressed JSON, which ends with a checksum. JSON makes the token ids of `logprobs` strings."""
    return zlib.compress(json.dumps(vars(generation) | {"logprobs": list(map(dict, generation.logprobs))}).encode())


def _get_error_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 255, which is none, for errors of the Python module itself."""
    return int(getattr(error, "sqlite_errorcode", -1)) & 0xFF


def _build_uri(path: Path, read_only: bool) -> str:
    """How to open `path`: a reader, too, takes part in the write-ahead log, unless it may write nothing there."""
    address = path.absolute().as_uri()
    if not read_only:
        return f"{address}?mode=rwc"
    if os.access(path.parent, os.W_OK) and os.access(path, os.W_OK):
        return f"{address}?mode=rw"
    in_use = path.with_name(f"{path.name}-wal").exists()
    return f"{address}?mode=ro" if in_use else f"{address}?mode=ro&immutable=1"
