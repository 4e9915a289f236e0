"""A table of text embeddings in any layout that Parquet writers choose, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import RequestError
from storage.text_tables import read_text_table

TEXTS = pa.array(["a dog", "ein Café"])
VECTORS = pa.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]])


def write(path: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize("text_type", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize(
    "vector_type",
    [pa.list_(pa.float32(), 3), pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float16(), 3)],
)
def test_every_layout_reads_alike(text_type: pa.DataType, vector_type: pa.DataType, tmp_path: Path) -> None:
    url = write(tmp_path / "t.parquet", text=TEXTS.cast(text_type), embedding=VECTORS.cast(vector_type), more=[1, 2])
    table = read_text_table(url)
    assert table.texts == ("a dog", "ein Café")
    assert table.vectors.dtype == np.float32 and table.vectors.tolist() == [[1, 2, 3], [4, 5, 6.5]]


def test_row_groups_and_urls(web: str, tmp_path: Path) -> None:
    data = pa.table({"text": [str(i) for i in range(50)], "embedding": [[i, 1.0] for i in range(50)]})
    pq.write_table(data, tmp_path / "t.parquet", row_group_size=7)
    table = read_text_table(f"{web}/t.parquet")
    assert table.texts[49] == "49" and table.vectors.shape == (50, 2) and table.vectors[49, 0] == 49


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"name": TEXTS, "embedding": VECTORS}, "no column 'text'; it has name, embedding"),
        ({"text": TEXTS}, "no column 'embedding'; it has text"),
        ({"text": [1, 2], "embedding": VECTORS}, "'text' is int64; it must be text"),
        ({"text": TEXTS, "embedding": [1.0, 2.0]}, "'embedding' is double; it must be a list of floats"),
        ({"text": TEXTS, "embedding": [["x"], ["y"]]}, "it must be a list of floats"),
        ({"text": ["a", None], "embedding": VECTORS}, "'text' has 1 nulls"),
        ({"text": TEXTS, "embedding": [[1.0], None]}, "'embedding' has 1 nulls"),
        ({"text": TEXTS, "embedding": [[1.0, None], [1.0, 2.0]]}, "'embedding' has 1 nulls"),
        ({"text": TEXTS, "embedding": [[1.0], [1.0, 2.0]]}, "vectors of 1 to 2 numbers"),
        ({"text": TEXTS, "embedding": pa.array([[], []], pa.list_(pa.float32()))}, "vectors of 0 to 0 numbers"),
        ({"text": TEXTS[:0], "embedding": VECTORS[:0]}, "has no rows"),
    ],
)
def test_errors_name_file_column_and_what_is_there(columns: dict[str, Any], words: str, tmp_path: Path) -> None:
    url = write(tmp_path / "t.parquet", **columns)
    with pytest.raises(RequestError) as caught:
        read_text_table(url)
    assert str(caught.value).startswith(f"{url}: ") and words in str(caught.value)


def test_what_is_no_parquet_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("text,embedding\n")
    with pytest.raises(RequestError, match="not a Parquet file"):
        read_text_table(str(tmp_path / "t.parquet"))
    for url in (str(tmp_path / "none.parquet"), "nothing://x/y", str(tmp_path)):
        with pytest.raises(RequestError, match="cannot be read"):
            read_text_table(url)
