"""The evaluation sets: generated ones, files, the Hub, and the hashes that keep them out of training."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from azero.domains import evaluation_sets
from azero.domains.arithmetic import Arithmetic
from azero.domains.expression import Operation, canonical, make_problem, parse
from azero.errors import UserError

DOMAIN = Arithmetic()

ROW = {
    "prompt": "Calculate: 12 - 48 = ",
    "answer": "-36",
    "difficulty": "hard",
    "metadata": {"a": 12, "b": 48, "operation": "-", "number_range": "10-50", "result": -36, "difficulty": "hard"},
}
ROW_AS_TEXT = ROW | {"metadata": json.dumps(ROW["metadata"])}


@pytest.mark.parametrize("name", ["test", "dev"])
def test_generated_sets_follow_the_recipe(name: str) -> None:
    items = DOMAIN.evaluation(name)
    assert items == DOMAIN.evaluation(name)
    assert Counter(item.label for item in items) == {
        "very_easy": 30,
        "easy": 40,
        "medium": 50,
        "hard": 40,
        "very_hard": 40,
    }
    ranges = {"very_easy": (0, 5), "easy": (0, 10), "medium": (0, 20), "hard": (10, 50), "very_hard": (20, 100)}
    for item in items:
        left, operator, right = item.problem.statement.split()
        assert DOMAIN.pose(item.problem, None) == f"Calculate: {item.problem.statement} = "
        assert item.problem == make_problem(item.problem.statement, -1)
        assert item.operation == operator
        low, high = ranges[item.label]
        assert low <= int(right) <= high and (low <= int(left) <= high or (operator == "/" and 0 <= int(left) <= high))
    assert {item.operation for item in items if item.label == "very_easy"} == {"+"}
    assert {item.operation for item in items if item.label == "very_hard"} == set("+-*/")
    assert len({item.problem.statement for item in items}) == 200


def test_dev_shares_only_sums_of_0_to_5_with_test() -> None:
    """And, of a number and a neutral element alone, 7 + 0 with 1 * 7 and 1 * 9 with 9 + 0."""
    test, dev = ({canonical(parse(i.problem.statement)) for i in DOMAIN.evaluation(name)} for name in ("test", "dev"))
    smallest = {canonical(Operation("+", a, b)) for a in range(6) for b in range(6)}
    assert test & dev == smallest | {"7", "9"}


def test_generated_test_set_is_frozen() -> None:
    items = DOMAIN.evaluation("test")
    assert [item.problem.statement for item in items if item.label == "hard"][:3] == ["38 - 11", "11 * 48", "49 - 39"]


def test_evaluation_problems_are_known_by_their_hashes() -> None:
    assert all(
        DOMAIN.is_evaluation(canonical(parse(item.problem.statement)))
        for name in ("test", "dev")
        for item in DOMAIN.evaluation(name)
    )
    published = ["20 + 10", "9 * 6", "6 * 9", "29 / 29", "0 / 43", "83 - 51", "49 * 24"]
    assert all(DOMAIN.is_evaluation(canonical(parse(text))) for text in published)
    assert not DOMAIN.is_evaluation(canonical(parse("321 + 123")))
    assert not DOMAIN.is_evaluation("")


def test_hash_file_is_sorted_and_holds_hashes_only() -> None:
    shipped = json.loads(evaluation_sets.HASH_FILE.read_text())
    assert set(shipped) == {"about", "seeds", "hashes"} and shipped["seeds"] == evaluation_sets.SEEDS
    assert shipped["hashes"] == sorted(set(shipped["hashes"]))
    assert all(len(h) == 12 and set(h) <= set("0123456789abcdef") for h in shipped["hashes"])


def test_hash_file_can_be_rebuilt(tmp_path: Path) -> None:
    (tmp_path / "published.jsonl").write_text(json.dumps(ROW | {"prompt": "Calculate: 321 + 123 = "}))
    command = [sys.executable, "-W", "error", "-m", "azero.domains.evaluation_sets", str(tmp_path / "published.jsonl")]
    made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    hashes = set(json.loads(made.stdout)["hashes"])
    assert evaluation_sets.short_hash("+(123,321)") in hashes
    assert hashes - {evaluation_sets.short_hash("+(123,321)")} <= evaluation_sets.shipped_hashes()


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
        case ".csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                texts = [m if isinstance(m := row["metadata"], str) else json.dumps(m) for row in rows]
                writer.writerows(row | {"metadata": text} for row, text in zip(rows, texts, strict=True))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case _:
            table = pa.Table.from_pylist(rows)
            new = pa.ipc.new_file if path.stem == "file" else pa.ipc.new_stream
            with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
                writer.write_table(table)
    return str(path)


@pytest.mark.parametrize(
    "name", ["a.json", "a.jsonl", "a[1]*.json", "a.csv", "a.parquet", "A.PARQUET", "file.arrow", "stream.arrow"]
)
@pytest.mark.parametrize("row", [ROW, ROW_AS_TEXT], ids=["struct", "text"])
def test_files_of_every_format(tmp_path: Path, name: str, row: dict[str, Any]) -> None:
    if name == "A.PARQUET":
        Path(write(tmp_path / "a.parquet", [row])).rename(tmp_path / name)
    else:
        write(tmp_path / name, [row])
    (item,) = DOMAIN.evaluation(str(tmp_path / name))
    assert (DOMAIN.pose(item.problem, None), item.problem.answer, item.label) == (
        "Calculate: 12 - 48 = ",
        "-36",
        "hard",
    )
    assert (item.operation, item.problem.statement) == ("-", "12 - 48")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"question": "3 + 5"}], "prompt, answer, difficulty, metadata"),
        ([ROW, {k: v for k, v in ROW.items() if k != "answer"}], "row 2: no answer"),
        ([ROW | {"metadata": {"a": 1}}], "metadata.operation"),
        ([ROW | {"metadata": "{"}], "metadata is no JSON"),
        ([ROW | {"metadata": 3}], "metadata.operation"),
        ([ROW | {"prompt": "What is 3 + 5?"}], "must have the form 'Calculate: a op b = '"),
        ([ROW | {"answer": "eight"}], "must be an integer"),
        (["3 + 5"], "row 1: no prompt"),
    ],
)
def test_bad_rows_are_user_errors(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        DOMAIN.evaluation(write(tmp_path / "rows.json", rows))
    assert message in str(error.value) and "rows.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.parquet", None, "no such file"),
        ("nothing", None, "no such set, file or Hub id"),
        ("rows.tsv", b"prompt\tanswer\n", "'.tsv' is not a known format"),
        ("rows.csv", b"prompt,answer\n", "no rows"),
        ("rows.csv", b"prompt,answer\n1,2\n3,4,5\n", "not a readable .csv file"),
        ("rows", b"", "no suffix is not a known format"),
        ("rows.parquet", b"not parquet", "not a readable .parquet file"),
        ("rows.arrow", b"not arrow, for all its length", "not a readable .arrow file"),
        ("empty.arrow", b"", "not a readable .arrow file"),
        ("rows.json", b"{", "not a readable .json file"),
        ("rows.json", b"[" * 100_000, "not a readable .json file"),
        ("rows.json", b"{}", "no rows"),
        ("rows.jsonl", b"{}\n{", "not a readable .jsonl file"),
        ("rows.jsonl", b"\xff\xfe", "not a readable .jsonl file"),
        ("rows.jsonl", b"\n\n", "no rows"),
    ],
)
def test_bad_files_are_user_errors(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        DOMAIN.evaluation(str(tmp_path / name))
    assert message.replace("'", "") in str(error.value).replace("'", "") and "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["", "Test", "x" * 5000, "\0", "a/b/c", "\ud800"])
def test_other_sources_are_user_errors(source: str) -> None:
    with pytest.raises(UserError, match="give test, dev"):
        DOMAIN.evaluation(source)


def test_hub_failure_names_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"'someone/sums': .*ConnectionError.*give a \.parquet"):
        DOMAIN.evaluation("someone/sums")


def test_hub_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(name: str, split: str) -> datasets.Dataset:
        assert (name, split) == ("morgan/arithmetic_eval", "test")
        return datasets.Dataset.from_list([ROW])

    monkeypatch.setattr(datasets, "load_dataset", load)
    (item,) = DOMAIN.evaluation("morgan/arithmetic_eval")
    assert item.problem.statement == "12 - 48"


def test_reading_a_file_leaves_nothing_behind_and_needs_no_network(tmp_path: Path) -> None:
    """And what needs no file does not import the library that reads them."""
    write(tmp_path / "rows.jsonl", [ROW])
    code = (
        "import sys; from azero.domains.evaluation_sets import load; load('test'); print('datasets' in sys.modules);"
        "print(len(load(sys.argv[1])))"
    )
    environment = {
        **os.environ,
        "HOME": str(tmp_path / "home"),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", code, str(tmp_path / "rows.jsonl")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], env=environment
    )
    assert (done.stdout.split(), done.stderr) == (["False", "1"], "")
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
