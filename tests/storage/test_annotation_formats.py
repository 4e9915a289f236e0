"""Files that people keep annotations in: each format's own ways, and that a bad row never costs a good one."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RequestError
from storage.annotation_formats.content import Entry, FileContent, Picture, parse_time, parse_value
from storage.annotation_formats.reader import Format, read_annotation_file
from storage.annotation_formats.tables import read_csv, read_parquet

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def csv_content(text: str) -> FileContent:
    return read_csv(text.encode(), "a.csv")


def parquet_content(**columns: Any) -> FileContent:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return read_parquet(buffer.getvalue(), "a.parquet")


def said(content: FileContent) -> dict[str, dict[str, int | None]]:
    """Return what each picture has, of entries that name theirs once."""
    assert len({entry.picture for entry in content.entries}) == len(content.entries)
    return {entry.picture.name: dict(entry.said) for entry in content.entries}


def test_a_csv_with_a_row_for_each_answer() -> None:
    content = csv_content(
        "\ufeffKey , LABEL,value,dataset,shard,at,source,note\n"
        'a/1, dog ,YES,street,0,2026-06-01T12:00:00Z,Ana,"x,\ny"\n'
        " a,dog,0,,,2026-06-01T14:00:00+02:00,,\n"
        "\n"
        "b,cat,,,,,,\n"
    )
    assert content.bad == []
    assert content.entries == [
        Entry(picture=Picture("a/1", True, "street", "0"), said=(("dog", 1),), at=NOON, source="Ana"),
        Entry(picture=Picture(" a", True), said=(("dog", 0),), at=NOON),
        Entry(picture=Picture("b", True), said=(("cat", None),)),
    ]


def test_without_a_value_an_answer_is_yes() -> None:
    assert said(csv_content("file,label_id\nx/../a.jpg,dog\n")) == {"a.jpg": {"dog": 1}}


def test_a_csv_as_pack_has_it() -> None:
    content = csv_content("path,labels,absent,key,size\na.jpg,dog; red car|dog,cat,,3\nb.jpg,,,own key,4\n")
    assert said(content) == {"a.jpg": {"dog": 1, "red car": 1, "cat": 0}, "own key": {}}
    assert [entry.picture.is_key for entry in content.entries] == [False, True]


def test_bad_lines_are_named_and_cost_no_good_one() -> None:
    content = csv_content(
        "key,label,value,at\n"
        "a,dog,1,\n"
        ",dog,1,\n"
        "b,,1,\n"
        "c,dog,perhaps,\n"
        "d,dog,1,yesterday\n"
        "e,dog\n"
        'f,"do"g,1,\n'
        "g,dog,1,\n"
        'h,"dog,1,\n'
        "i,dog,1,\n"
    )
    assert said(content) == {"a": {"dog": 1}, "g": {"dog": 1}}
    problems = (
        "line 3: key is empty",
        "line 4: label is empty",
        "line 5: value 'perhaps' is none of",
        "line 6: 'yesterday' is no time",
        "line 7: 2 cells, and the header has 4",
        "line 8: ',' expected after '\"'",
        "line 10: unexpected end of data",
    )
    assert len(content.bad) == len(problems)
    for line, problem in zip(content.bad, problems, strict=True):
        assert line.startswith(problem)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"\(none\), and none that says which picture"),
        ("picture,label\na,b\n", "which picture a row is about; call one of them key"),
        ("key,tag\na,b\n", "what is on it; a row for each answer has a column label"),
        ("key,label,value,Value\na,b,1,0\n", "has several columns of one name: value; leave one of each"),
        ("key,label,labels,absent\na,b,c,d\n", "label says that a row is one answer, labels and absent that it is all"),
    ],
)
def test_columns_that_say_nothing_are_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        csv_content(text)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_of_a_spreadsheet_with_other_separators(separator: str) -> None:
    rows = (("Key", '"Label"', "note"), ("a", "dog", "x, y"), ("b", '"red\r\ncar"', ""))
    content = csv_content("\ufeff\r\n" + "\r\n".join(map(separator.join, rows)))
    assert said(content) == {"a": {"dog": 1}, "b": {"red\r\ncar": 1}} and content.bad == []
    rows = (("path", "labels", "absent"), ("a.jpg", '"dog;red car"', "cat|bus"))
    content = csv_content("\n".join(map(separator.join, rows)))
    assert said(content) == {"a.jpg": {"dog": 1, "red car": 1, "cat": 0, "bus": 0}}


AS_EXCEL_WRITES_IT = [
    ("utf-8", ",", ""),
    ("utf-8-sig", ";", ""),
    ("utf-16", "\t", ""),  # what Excel calls Unicode text
    ("utf-16-be", ";", "\ufeff"),
    ("utf-8", ";", "sep=;\r\n"),
    ("utf-8-sig", "|", "SEP=|\r\n"),
    ("utf-16", ";", '"sep=;"\n'),
]


@pytest.mark.parametrize(("encoding", "separator", "first"), AS_EXCEL_WRITES_IT)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_csv_as_excel_writes_it(encoding: str, separator: str, first: str, end: str) -> None:
    rows = [separator.join(cells) for cells in (("key", "label", "value"), ("ä", "Straße", "1"), ("", "狗", ""))]
    content = read_csv((first + end.join([*rows, ""])).encode(encoding), "a.csv")
    assert said(content) == {"ä": {"Straße": 1}}
    assert content.bad == [f"line {4 if 'sep' in first.lower() else 3}: key is empty"], "lines count as an editor does"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("key,label\na,dog\nbc,Straße\n".encode("latin-1"), "'a.csv' is not UTF-8: line 3, character 8: .*CSV UTF-8"),
        ("key,label\na,dog\n".encode("utf-16")[:-1], "is not UTF-16: line 2, character 6: truncated data"),
        ("key,label\na,dog\n".encode("utf-16-le"), "NUL characters in its header, as UTF-16 without its mark has"),
        ("key,label\na,dog\n".encode("utf-32-le"), "NUL characters in its header, as UTF-32 without its mark has"),
        ("key,label\na,dog\n".encode("utf-32"), "'a.csv' is UTF-32; save it as UTF-8"),
        (b'\n"key"s,label\na,dog\nkey,label\n', "line 2 should be the header: ',' expected after '\"'; put cells with"),
        (b"sep=;\n", r"\(none\), and none that says which picture"),
        (b"sep=;\r\nkey,label\r\na,dog\r\n", "has the columns key,label, and none that says which picture"),
    ],
)
def test_a_csv_in_another_encoding_or_separator_is_refused_with_its_place(data: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_csv(data, "a.csv")


def test_rows_of_separators_alone_are_blank() -> None:
    content = csv_content(";;\nkey;label;value\na;dog;1\n;;\n ;\t;\nb;dog;0\n;;\n")
    assert said(content) == {"a": {"dog": 1}, "b": {"dog": 0}} and content.bad == []


def test_a_nul_and_a_cell_without_end_cost_a_line() -> None:
    content = csv_content(f"key,label\na,d\0og\nb,dog\nc,{'x' * 140_000}\nd,dog\n")
    assert said(content) == {"b": {"dog": 1}, "d": {"dog": 1}}
    nul, long = content.bad
    assert nul == "line 2: it has a NUL character; remove it"
    assert long.startswith("line 4: a cell has more than 131,072 characters") and "close the quote" in long


def test_spaces_about_a_dataset_and_a_shard_do_not_count_and_a_path_beside_a_key_is_kept() -> None:
    (entry,) = csv_content("key,path,label,dataset,shard\na ,x/../b.jpg ,dog, street,00000 \n").entries
    assert entry.picture == Picture("a ", True, "street", "00000")
    assert entry.beside == Picture("b.jpg", False, "street", "00000")


def test_parquet_with_types_of_its_own() -> None:
    content = parquet_content(
        key=["a", "b", "c", "d", None],
        label=pa.array(["dog"] * 5).dictionary_encode(),
        value=[1.0, 0.0, float("nan"), None, 1.0],
        at=pa.array([NOON, NOON, None, None, NOON], pa.timestamp("ns")),
        other=[{"x": 1}] * 5,
    )
    assert said(content) == {"a": {"dog": 1}, "b": {"dog": 0}, "c": {"dog": None}, "d": {"dog": None}}
    assert [entry.at for entry in content.entries] == [NOON, NOON, None, None]
    assert content.bad == ["row 5: key is empty"]
    assert said(parquet_content(key=["a", "b"], label=["dog"] * 2, value=[True, False])) == {
        "a": {"dog": 1},
        "b": {"dog": 0},
    }


def test_parquet_with_a_row_for_each_picture() -> None:
    content = parquet_content(filename=["a.jpg", "b.jpg", "c.jpg"], labels=[["dog", "cat"], None, ["", "x"]])
    assert said(content) == {"a.jpg": {"dog": 1, "cat": 1}, "b.jpg": {}}
    assert content.bad == ["row 3: labels is empty"]


def test_the_catalogs_own_tables_can_be_read_back() -> None:
    row = {"dataset": "street", "shard": "0", "key": "a", "label_id": "dog", "value": 1, "source": "me", "at": NOON}
    content = parquet_content(**{name: [value] for name, value in row.items()})
    picture = Picture("a", True, "street", "0")
    assert content.entries == [Entry(picture=picture, said=(("dog", 1),), at=NOON, source="me")]


COCO = {
    "images": [
        {"id": 1, "file_name": "train/a.jpg"},
        {"id": 2, "file_name": "b\\c.jpg"},
        {"id": 3, "file_name": "empty.jpg"},
        {"id": 4},
        "nonsense",
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "red car"}, {"id": 9, "name": "never"}],
    "annotations": [
        {"image_id": 1, "category_id": 8, "iscrowd": 1, "segmentation": {"counts": "x"}},
        {"image_id": 1, "category_id": 7, "segmentation": [[1, 2]]},
        {"image_id": 1, "category_id": 7},
        {"image_id": 2, "category_id": 7},
        {"id": 77, "image_id": 5, "category_id": 7},
        {"image_id": 1, "category_id": "dog"},
        "nonsense",
    ],
}


def write(folder: Path, value: Any, name: str = "a.json") -> str:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return str(folder / name)


def test_coco(tmp_path: Path) -> None:
    content = read_annotation_file(write(tmp_path, COCO))
    assert said(content) == {"train/a.jpg": {"red car": 1, "dog": 1}, "b/c.jpg": {"dog": 1}, "empty.jpg": {}}
    assert content.words == ["dog", "red car", "never"]
    assert content.bad == [
        "image with id 4: file_name is empty",
        "image number 5 of the list: id is None, and must be a number or a text",
        "annotation with id 77: image_id 5 is not in the file's list",
        "annotation number 6 of the list: category_id 'dog' is not in the file's list",
        "annotation number 7 of the list: image_id is None, and must be a number or a text",
    ]


def choice(*words: str, kind: str = "choices", **fields: Any) -> dict[str, Any]:
    """Return an annotation of Label Studio."""
    result = {"type": kind, "from_name": "x", "to_name": "image", "value": {kind: list(words)}}
    return {"result": [result], "created_at": "2026-06-01T11:00:00.000000Z", "was_cancelled": False, **fields}


def tasks(*answers: tuple[dict[str, Any], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [{"id": n, "data": data, "annotations": given} for n, (data, given) in enumerate(answers, start=1)]


def test_label_studio(tmp_path: Path) -> None:
    ana, number = {"id": 3, "email": "ana@example.org"}, 4
    newest = "2026-06-01T12:00:00.000000Z"
    content = read_annotation_file(
        write(
            tmp_path,
            tasks(
                ({"image": "s3://bucket/x/a.jpg"}, [choice("dog", "cat", completed_by=ana, updated_at=newest)]),
                ({"image": "/data/upload/7/0a1b2c3d-b%20c.jpg"}, [choice("dog", completed_by=number)]),
                ({"image": "/data/local-files/?d=x/c.jpg"}, [choice("old"), choice("dog", created_at=newest)]),
                ({"img": "d.jpg"}, [choice("Car", "Car", kind="rectanglelabels"), choice("x", was_cancelled=True)]),
                ({"image": "skipped.jpg"}, [choice("dog", was_cancelled=True)]),
                ({"image": "open.jpg"}, []),
                ({"key": "k", "dataset": "street", "shard": "0"}, [{"result": [], "created_at": newest}]),
                ({"image": "data:image/png;base64,xyz"}, [choice("dog")]),
                ({"text": "no picture"}, [choice("dog")]),
                ({"image": "e.jpg"}, [{"result": 5}]),
                ({"image": "f.jpg"}, [{"result": [{"type": "choices", "value": {"choices": "dog"}}]}]),
            ),
        )
    )
    assert said(content) == {
        "x/a.jpg": {"dog": 1, "cat": 1},
        "b c.jpg": {"dog": 1},
        "x/c.jpg": {"dog": 1},
        "d.jpg": {"Car": 1},
        "k": {},
    }
    first, second, third, *_, last = content.entries
    assert (first.at, first.source) == (NOON, "label-studio:ana@example.org")
    assert (second.source, third.source, third.at) == ("label-studio:4", "label-studio", NOON)
    assert last.picture == Picture("k", True, "street", "0")
    assert content.unanswered == 2
    assert [line.split(":")[0] for line in content.bad] == ["task 8", "task 9", "task 10", "task 11"]


def test_label_studio_on_questions_of_a_review(tmp_path: Path) -> None:
    data = {"image": "data:x", "dataset": "street", "shard": "0", "label_id": "dog"}
    content = read_annotation_file(
        write(
            tmp_path,
            tasks(
                (data | {"key": "a"}, [choice("yes"), choice("no", created_at="2026-06-01T12:00:00Z")]),
                (data | {"key": "b"}, [choice("unsure")]),
                (data | {"key": "c"}, [choice()]),
                (data | {"key": "d"}, [choice("dog")]),
            ),
        )
    )
    assert said(content) == {"a": {"dog": 0}, "b": {"dog": None}}
    assert content.unanswered == 1 and content.bad[0].startswith("task 4: value 'dog' is none of")


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.csv", "key,label\na,b\n", "csv"),
        ("noname", "key,label\na,b\n", "csv"),
        ("noname", COCO, "coco"),
        ("a.JSON", [], "labelstudio"),
    ],
)
def test_the_format_is_told_by_suffix_and_content(tmp_path: Path, name: str, content: Any, format: Format) -> None:
    assert read_annotation_file(write(tmp_path, content, name)).format == format
    assert read_annotation_file(write(tmp_path, content, name), format).format == format
    buffer = io.BytesIO()
    pq.write_table(pa.table({"key": ["a"], "label": ["b"]}), buffer)
    (tmp_path / "table").write_bytes(buffer.getvalue())
    assert read_annotation_file(str(tmp_path / "table")).format == "parquet"


@pytest.mark.parametrize(
    ("name", "content", "format", "message"),
    [
        ("a.json", "{", None, "is no JSON"),
        ("a.json", "[" * 100_000, None, "is no JSON"),
        ("a.json", {"a": 1}, None, "JSON of another kind: COCO is"),
        ("a.json", [1], None, "JSON of another kind"),
        ("a.json", COCO, "labelstudio", "of another kind than labelstudio"),
        ("a.json", {"format": "clipdecoder-answers"}, None, "clipdecoder review import"),
        ("a.parquet", "PAR1", None, "no Parquet file"),
    ],
)
def test_what_is_none_of_them_is_refused(
    tmp_path: Path, name: str, content: Any, format: Format | None, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        read_annotation_file(write(tmp_path, content, name), format)


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        read_annotation_file("/nowhere/a.csv")


def test_half_a_surrogate_pair_is_a_bad_row(tmp_path: Path) -> None:
    text = json.dumps(tasks(({"key": "a"}, [choice("dog")]), ({"key": "@"}, [choice("dog")]))).replace("@", "\\ud800")
    content = read_annotation_file(write(tmp_path, text))
    assert said(content) == {"a": {"dog": 1}} and len(content.bad) == 1


def test_values_and_times() -> None:
    assert [parse_value(value) for value in (1, True, "Yes ", "1.0", "TRUE")] == [1] * 5
    assert [parse_value(value) for value in (0, False, "no", 0.0)] == [0] * 4
    assert [parse_value(value) for value in (None, "", " ", "unsure", float("nan"))] == [None] * 5
    with pytest.raises(ValueError, match="'2' is none of 1, 0"):
        parse_value("2")
    assert parse_time("2026-06-01 12:00") == parse_time("2026-06-01T14:00+02:00") == NOON
    soon = datetime.now(UTC) + timedelta(hours=23)  # clocks and zones differ
    assert parse_time(soon.isoformat()) == soon
    with pytest.raises(ValueError, match="'2999-01-01' is in the future"):
        parse_time("2999-01-01")
    with pytest.raises(ValueError, match="no time"):
        parse_time("0001-01-01T00:00+14:00")


@given(st.text(alphabet='akey,label\n"\r;é01 ', max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    content = csv_content("key,label,value\n" + text)
    assert all(entry.picture.name and entry.said for entry in content.entries)
