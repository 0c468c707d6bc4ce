from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tide_lightning.datamodules.prompts import read_prompts
from tide_lightning.errors import UserError

TEXTS = ["a red ball, small", 'a "blue" cube', "ein grüner Käfer"]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    quoted = ['"a red ball, small"', '"a ""blue"" cube"', "ein grüner Käfer"]
    lines = ["id,caption", *(f"{i},{text}" for i, text in enumerate(quoted)), "3,"]
    (tmp_path / "t.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    rows = ["id\tcaption", *(f"{i}\t{text}" for i, text in enumerate(quoted))]
    (tmp_path / "t.tsv").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"id": 1, "caption": text}) for text in TEXTS))
    table = pyarrow.table({"id": [0, 1, 2, 3], "caption": [*TEXTS, None]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    return tmp_path


def test_a_text_file_has_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a red ball\n\n  a blue cube  \n", encoding="utf-8")
    assert read_prompts(str(path)) == ["a red ball", "a blue cube"]
    with pytest.raises(UserError, match=r"cannot read prompt file .*absent.txt: No such file"):
        read_prompts(str(tmp_path / "absent.txt"))
    path.write_bytes("Käfer".encode("latin-1"))
    with pytest.raises(UserError, match=r"prompts.txt is not UTF-8 \(byte 1\)"):
        read_prompts(str(path))
    path.write_text("\n \n")
    with pytest.raises(UserError, match=r"prompts.txt is empty"):
        read_prompts(str(path))
    with pytest.raises(UserError, match="the list of prompts is empty"):
        read_prompts([])
    with pytest.raises(UserError, match=r"holds no 'missing.txt'"):
        read_prompts("package:tide_lightning/missing.txt")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_column_of_a_table(tables: Path, kind: str) -> None:
    assert read_prompts(f"{tables}/t.{kind}:caption") == TEXTS
    with pytest.raises(UserError, match=rf"t\.{kind}.* has no column 'text'; it has id, caption"):
        read_prompts(f"{tables}/t.{kind}:text")
    with pytest.raises(UserError, match=rf"t\.{kind} is a table: name a column, as in t\.{kind}:caption"):
        read_prompts(f"{tables}/t.{kind}")
    with pytest.raises(UserError, match=rf"cannot read .*absent\.{kind}: No such file"):
        read_prompts(f"{tables}/absent.{kind}:caption")


def test_damaged_tables(tables: Path) -> None:
    whole = (tables / "t.parquet").read_bytes()
    (tables / "t.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"t\.parquet is not a parquet file, or cut off"):
        read_prompts(f"{tables}/t.parquet:caption")
    (tables / "t.csv").write_bytes("caption\nKäfer".encode("latin-1"))
    with pytest.raises(UserError, match=r"t\.csv is not UTF-8 \(some way behind line 0\)"):
        read_prompts(f"{tables}/t.csv:caption")
    (tables / "t.csv").write_text("caption\n")
    with pytest.raises(UserError, match=r"t\.csv:caption is empty"):
        read_prompts(f"{tables}/t.csv:caption")
    (tables / "t.csv").write_text("")
    with pytest.raises(UserError, match=r"t\.csv has no column 'caption'; it has none"):
        read_prompts(f"{tables}/t.csv:caption")
    (tables / "t.jsonl").write_text('{"caption": "a"}\n[1]\n')
    with pytest.raises(UserError, match=r"t\.jsonl, line 2: not a JSON object"):
        read_prompts(f"{tables}/t.jsonl:caption")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files that datasets leaves open
@pytest.mark.usefixtures("collect_open_files")
def test_a_dataset_of_the_hub_is_streamed(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("dataset")
    (tables / "t.parquet").rename(folder / "train.parquet")
    assert read_prompts(f"hf:{folder}:caption") == TEXTS
    assert read_prompts(f"hf:{folder}@train[:2]:caption") == TEXTS[:2]
    with pytest.raises(UserError, match="has no column 'text'; it has id, caption"):
        read_prompts(f"hf:{folder}:text")
    with pytest.raises(UserError, match=r"cannot load dataset .* \(test\)"):
        read_prompts(f"hf:{folder}@test:caption")


def test_an_address_of_the_hub_that_is_not_one() -> None:
    with pytest.raises(UserError, match="write hf:OWNER/NAME@SPLIT"):
        read_prompts("hf:owner/name")


def test_a_prompt_ends_with_its_line_and_nothing_else(tmp_path: Path) -> None:
    """Not at a separator of Unicode's, a form feed or a vertical tab; a byte order mark is no part of the first."""
    texts = ["a red\u2028ball", "a\x0bblue\x0ccube", "a\x85green\u2029cone", "a\x1cring"]
    for ending in ("\n", "\r\n", "\r"):
        (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbf" + ending.join(texts).encode())
        assert read_prompts(str(tmp_path / "t.txt")) == texts
    lines = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts[:1])
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert read_prompts(f"{tmp_path}/t.jsonl:text") == texts[:1]


def test_what_is_no_text_is_no_prompt(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": null}\n{"text": "None"}\n{"text": 7}\n')
    assert read_prompts(f"{path}:text") == ["None", "7"]
    table = pyarrow.table({"text": [None, "None"], "several": [["a", "b"], None]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert read_prompts(f"{tmp_path}/t.parquet:text") == ["None"]
    with pytest.raises(UserError, match=r"t\.parquet, row 0: several holds a list, not text"):
        read_prompts(f"{tmp_path}/t.parquet:several")
    for value, said in (
        ('["a"]', "line 2: text holds a list, not text"),
        ('"\\ud800"', "line 2: text holds half a surrogate pair"),
        ("[" * 100_000, "line 2: not a JSON object"),
        ("1" * 5_000, "line 2: not a JSON object"),
    ):
        path.write_text('{"text": "a"}\n{"text": ' + value + "}\n")
        with pytest.raises(UserError, match=said):
            read_prompts(f"{path}:text")
    with pytest.raises(UserError, match=r"cannot read prompt file .*: embedded null"):
        read_prompts("a\0b.txt")


def test_long_cells_are_read_and_open_quotes_refused(tmp_path: Path) -> None:
    path, long, limit = tmp_path / "t.csv", "a ball " * 30_000, csv.field_size_limit()
    path.write_text(f'other,text\n"{long}","a cube"\nx,"{long}"\n')
    assert read_prompts(f"{path}:text") == ["a cube", long.strip()]
    assert csv.field_size_limit() == limit
    path.write_text('text\na ball\n"a cube\na cone\n')
    with pytest.raises(UserError, match=r"t\.csv, behind line 2: unexpected end of data"):
        read_prompts(f"{path}:text")
    path.write_text('"text\n')
    with pytest.raises(UserError, match=r"t\.csv, behind line 0: unexpected end of data"):
        read_prompts(f"{path}:text")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")), min_size=1))
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_from_any_kind_of_file(tmp_path: Path, texts: list[str]) -> None:
    expected = [text.strip() for text in texts if text.strip()]
    assume(expected)
    (tmp_path / "p.txt").write_text("\n".join(texts), encoding="utf-8")
    with (tmp_path / "p.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    (tmp_path / "p.jsonl").write_text(
        "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts), "utf-8"
    )
    for address in ("p.csv:text", "p.jsonl:text"):
        assert read_prompts(f"{tmp_path}/{address}") == expected
    if not texts[0].startswith("\ufeff"):
        assert read_prompts(f"{tmp_path}/p.txt") == expected
