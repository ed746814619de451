"""Rows of evaluation data from a file or the Hugging Face Hub, for every domain; what is wrong is told in one line.

Also the files of hashes that ship beside a domain, by which it knows its evaluation problems without loading any.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from azero.errors import UserError, first_line

SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}  # and reader

HASH_DIGITS = 12  # hex; 48 bits: a false hit among all problems of a domain is unlikely

_HUB_ID = re.compile(r"[A-Za-z0-9][\w-]*/\w[\w.-]*")
_FILE_SUFFIX = re.compile(r"\.[a-z]{2,8}")


def short_hash(text: str) -> str:
    """The truncated SHA-256, in hex, of a text, such as a canonical form."""
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


@cache
def hashes_in(file: Path) -> frozenset[str]:
    """The hashes of a file that `hash_file` wrote."""
    return frozenset(json.loads(file.read_text(encoding="utf-8"))["hashes"])


def hash_file(about: str, seeds: Mapping[str, int], forms: Iterable[str]) -> str:
    """The text of a file of hashes. `about`: of which problems, and which command makes it."""
    about = f"First {HASH_DIGITS} hex digits of the SHA-256 of the canonical form of {about}"
    hashes = sorted(set(map(short_hash, forms)))
    return json.dumps({"about": about, "seeds": seeds, "hashes": hashes}, indent=0) + "\n"


def read_rows(source: str, example: str, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(its name in an error, row) of a file, or of the split test of a Hub id: at least one, with all of the columns.

    `example` is a Hub id for the error that says what may be given beside the generated sets test and dev. Raises
    UserError.
    """
    allowed = f"give test, dev, a {', '.join(SUFFIXES)} file or a Hub id such as {example}"
    suffix = Path(source).suffix.lower()
    if suffix in SUFFIXES:
        rows = _read(source, suffix, allowed)
    elif os.path.exists(source) or _FILE_SUFFIX.fullmatch(suffix):
        raise UserError(f"evaluation data {source!r}: {suffix or 'no suffix'} is not a known format; {allowed}")
    elif _HUB_ID.fullmatch(source):
        rows = _from_hub(source)
    else:
        raise UserError(f"evaluation data {source!r}: no such set, file or Hub id; {allowed}")
    if not rows:
        raise UserError(f"evaluation data {source!r}: no rows; give a set with at least one")
    for number, row in enumerate(rows, start=1):
        where = f"evaluation data {source!r}, row {number}"
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: is a {type(row).__name__}; give an object with the columns {', '.join(columns)}")
        missing = [column for column in columns if row.get(column) is None]
        if missing:
            raise UserError(f"{where}: no {', '.join(missing)}; the columns {', '.join(columns)} are needed")
        yield where, row


def _read(source: str, suffix: str, allowed: str) -> list[Any]:
    if not os.path.isfile(source):
        raise UserError(f"evaluation data {source!r}: no such file; {allowed}")
    import datasets

    level = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it would log is in the error
    file = glob.escape(os.path.abspath(source))
    try:
        with tempfile.TemporaryDirectory() as cache:
            return list(
                datasets.load_dataset(SUFFIXES[suffix], data_files=file, split="train", streaming=True, cache_dir=cache)
            )
    except Exception as error:  # datasets and pyarrow raise unrelated types
        cause = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise UserError(
            f"evaluation data {source!r}: not a readable {suffix} file ({cause}); write it again or {allowed}"
        ) from error
    finally:
        datasets.logging.set_verbosity(level)


def _from_hub(source: str) -> Any:
    try:
        import datasets

        return datasets.load_dataset(source, split="test").to_list()
    except Exception as error:  # datasets, huggingface_hub and the HTTP client below raise unrelated types
        raise UserError(
            f"evaluation data {source!r}: split test cannot be loaded from the Hub ({type(error).__name__}); "
            f"give a {', '.join(SUFFIXES)} file with its rows, or test or dev, which need no network"
        ) from error
