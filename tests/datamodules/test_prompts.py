from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

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
    with pytest.raises(UserError, match=r"t\.csv is not UTF-8 \(byte 9\)"):
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
