"""Packing loses nothing, changes no byte, and refuses before it writes."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import RequestError, RunError, StoreError
from schemas.sample import MemberCounts, Sample
from storage.pack import pack
from storage.shards import iter_samples
from tests.nasty import corrupt_jpeg, jpeg, png


def touch(root: Path, files: dict[str, bytes | str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def unpack(*urls: str) -> tuple[dict[str, Sample], MemberCounts]:
    counts = MemberCounts()
    samples = {sample.key: sample for url in urls for sample in iter_samples(url, counts)}
    return samples, counts


@pytest.fixture
def images(tmp_path: Path) -> Path:
    touch(
        tmp_path / "images",
        {
            "cats/a.jpg": jpeg(1),
            "cats/a.json": '{"labels": ["cat"]}',
            "cats/a.jpg.txt": "a cat",
            "cats/a.png": png(2),
            "cats/a.png.json": "{}",
            "dogs/IMG.2024.01.JPG": jpeg(3),
            "dogs/bad.jpg": corrupt_jpeg(4),
            "dogs/empty.jpg": b"",
            "дом и сад.webp": b"no webp",
            "n" * 150 + ".png": png(5),
            "notes.md": "no image",
            "lonely.txt": "no image of this name",
        },
    )
    return tmp_path / "images"


def test_a_folder_goes_in_whole_and_unchanged(images: Path, tmp_path: Path) -> None:
    finished: list[tuple[str, int]] = []
    to = f"{tmp_path}/out/{{:05d}}.tar"
    report = pack(str(images), to, samples_per_shard=3, on_shard=lambda url, n: finished.append((url, n)))
    assert report.shards == tuple(to.format(n) for n in range(3))
    assert finished == [(to.format(0), 3), (to.format(1), 3), (to.format(2), 1)]
    samples, counts = unpack(*report.shards)
    assert report.samples == counts.images == len(samples) == 7
    assert counts == MemberCounts(images=7, side_files=3)
    for sample in samples.values():
        source = "cats/a.png" if sample.key == "cats/a.png" else sample.member
        assert sample.data == (images / source).read_bytes()
    assert samples["cats/a"].side == {"json": b'{"labels": ["cat"]}', "txt": b"a cat"}
    assert samples["cats/a.png"].side == {"json": b"{}"}
    assert report.renamed == {"cats/a.png": "cats/a.png"}
    assert report.ignored == ("lonely.txt", "notes.md")
    assert "dogs/IMG.2024.01" in samples
    text = "\n".join(report.lines())
    assert "images: 7, shards: 3" in text and "notes.md" in text and "cats/a.png" in text
    assert sorted(os.listdir(tmp_path / "out")) == ["00000.tar", "00001.tar", "00002.tar"]


def test_packing_again_gives_the_same_bytes(images: Path, tmp_path: Path) -> None:
    first = pack(str(images), f"{tmp_path}/one/{{:03d}}.tar")
    for path in images.rglob("*"):
        os.utime(path, (1, 1))
    second = pack(str(images) + "/", f"{tmp_path}/two/{{:03d}}.tar")
    assert [Path(s).read_bytes() for s in first.shards] == [Path(s).read_bytes() for s in second.shards]


def test_keys_stay_different_whatever_the_names(tmp_path: Path) -> None:
    names = ["a.gif", "a.jpg", "a.jpg.png", "a.JPG", "a.jpg.jpg"]
    touch(tmp_path / "in", {name: name for name in names})
    report = pack(str(tmp_path / "in"), f"{tmp_path}/{{}}.tar")
    samples, counts = unpack(*report.shards)
    assert counts.images == len(samples) == report.samples == 5
    assert sorted(sample.data.decode() for sample in samples.values()) == sorted(names)
    assert samples["a"].data == b"a.JPG" and samples["a.jpg"].data == b"a.jpg.jpg"


def test_labels_that_are_absent_are_a_list_too(images: Path, tmp_path: Path) -> None:
    touch(tmp_path, {"list.csv": f"path,labels,Absent\n{images}/cats/a.jpg,cat,dog; bus\n"})
    samples, _ = unpack(*pack(f"{tmp_path}/list.csv", f"{tmp_path}/{{:d}}.tar").shards)
    (sample,) = samples.values()
    assert json.loads(sample.side["json"]) == {"labels": ["cat"], "absent": ["dog", "bus"]}


def test_a_csv_gives_keys_labels_and_columns(images: Path, tmp_path: Path) -> None:
    rows = [
        "File,Labels,key,caption",
        'images/cats/a.jpg,cat; pet ,,"a, b"',
        "images/dogs/bad.jpg,,best dog,",
        f"{images}/dogs/empty.jpg,dog|pet,,x",
        "images/../images/cats/a.png,cat,,y",
    ]
    touch(tmp_path, {"list.csv": "\ufeff" + "\r\n".join(rows)})
    report = pack(f"{tmp_path}/list.csv", f"{tmp_path}/{{:d}}.tar")
    samples, counts = unpack(*report.shards)
    root = str(images).lstrip("/")
    assert list(samples) == ["images/cats/a", "best dog", f"{root}/dogs/empty", "images/cats/a.png"]
    side: dict[str, Any] = {key: json.loads(sample.side["json"]) for key, sample in samples.items()}
    assert side["images/cats/a"] == {"labels": ["cat", "pet"], "caption": "a, b"}
    assert side["best dog"] == {"labels": [], "caption": ""}
    assert side[f"{root}/dogs/empty"]["labels"] == ["dog", "pet"]
    assert samples["images/cats/a"].side["txt"] == b"a cat"
    assert samples["best dog"].data == corrupt_jpeg(4)
    assert (counts.images, counts.orphan_side_files) == (4, 0)
    assert report.ignored == ()


def test_columns_are_merged_into_the_json_beside_the_image(tmp_path: Path) -> None:
    touch(tmp_path, {"a.jpg": jpeg(), "a.json": '{"labels": ["old"], "id": 7}', "b.jpg": jpeg(), "b.json": "[1]"})
    touch(
        tmp_path, {"list.csv": "path,labels\na.jpg,new\n", "plain.csv": "path\nb.jpg\n", "bad.csv": "path,x\nb.jpg,1"}
    )
    samples, _ = unpack(*pack(f"{tmp_path}/list.csv", f"{tmp_path}/m{{}}.tar").shards)
    assert json.loads(samples["a"].side["json"]) == {"labels": ["new"], "id": 7}
    samples, _ = unpack(*pack(f"{tmp_path}/plain.csv", f"{tmp_path}/p{{}}.tar").shards)
    assert samples["b"].side == {"json": b"[1]"}
    with pytest.raises(RequestError, match=r"bad\.csv:2: 'b\.json' is no JSON object"):
        pack(f"{tmp_path}/bad.csv", f"{tmp_path}/x{{}}.tar")


@pytest.mark.parametrize(
    "content",
    [
        'path;labels;note\r\na.jpg;"dog;cat";x, y\r\n'.encode("utf-8-sig"),
        "path\tlabels\tnote\na.jpg\tdog|cat\tx, y\n".encode("utf-16"),
        b"sep=;\r\npath;labels;note\r\n\r\na.jpg;dog|cat;x, y\r\n",
    ],
)
def test_a_csv_as_a_spreadsheet_writes_it(tmp_path: Path, content: bytes) -> None:
    touch(tmp_path, {"list.csv": content, "a.jpg": jpeg()})
    samples, _ = unpack(*pack(f"{tmp_path}/list.csv", f"{tmp_path}/{{}}.tar").shards)
    assert json.loads(samples["a"].side["json"]) == {"labels": ["dog", "cat"], "note": "x, y"}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("path\n", "lists no image"),
        ("url,labels\nx.jpg,a\n", "columns url, labels, and none that says where.*path or file or filename or image"),
        ("path\nnone.jpg\nno/ne.jpg\na.jpg\n", r"lists what is not there: 2 files \(no/ne.jpg, none.jpg\)"),
        ("path\na.jpg\nb.jpg\na.jpg\n", r"list\.csv:4: 'a\.jpg' stands at .*list\.csv:2 already"),
        ("path,key\na.jpg,k\nb.jpg,k\n", r"list\.csv:3: key 'k' stands at .*list\.csv:2 already"),
        ("path,key\na.jpg,k/\n", r"key 'k/' has no name"),
        ("path,labels,Labels\na.jpg,cat,dog\n", "has several columns of one name: labels; leave one of each"),
        ("path\nnotes.md\n", r"'notes\.md' has no image extension; known: avif"),
        ("path,labels\na.jpg\n", "1 cell, not as many as the header, which has 2"),
        ("path,labels\na.jpg,x,y\n", "3 cells, not as many"),
        ("path,labels\n,x\n", "path is empty"),
        ('path,labels\na.jpg,"x\n', "not a CSV"),
        (b"path\na.jpg\n\xff.jpg\n", r"not UTF-8: line 3, character 1: invalid start byte"),
        (b"sep=;\npath;labels\na.jpg;x;y\n", r"list\.csv:3: 3 cells, not as many"),
    ],
)
def test_a_csv_with_a_mistake_is_refused_with_its_line(tmp_path: Path, content: bytes | str, what: str) -> None:
    touch(tmp_path, {"list.csv": content, "a.jpg": jpeg(), "b.jpg": jpeg(), "notes.md": ""})
    with pytest.raises(RequestError, match=what):
        pack(f"{tmp_path}/list.csv", f"{tmp_path}/out/{{:05d}}.tar")
    assert not (tmp_path / "out").exists()


def test_sources_without_images_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, {"docs/a.md": "", "docs/b.md": ""})
    to = f"{tmp_path}/out/{{}}.tar"
    for source, what in (("docs", "has 2 files and no image"), ("none", "is not there"), ("none.csv", "cannot read")):
        with pytest.raises(RequestError, match=what):
            pack(f"{tmp_path}/{source}", to)
    with pytest.raises(RequestError, match="samples_per_shard is 0"):
        pack(f"{tmp_path}/docs", to, samples_per_shard=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "to", ["x.tar", "{}{}.tar", "{a}.tar", "{:05d}", "{.tar", "{!r}.tar", "{:>5}.tar", "{}.tar.gz"]
)
def test_targets_need_one_place_for_the_number(images: Path, tmp_path: Path, to: str) -> None:
    with pytest.raises(RequestError, match=r"shards/\{:05d\}\.tar"):
        pack(str(images), f"{tmp_path}/out/{to}")


def test_targets_that_have_shards_are_refused(images: Path, tmp_path: Path) -> None:
    touch(tmp_path, {"out/other.tar": "", "out/part-00017.tar": "", "hex/0f.tar": "", "deep/003/x.tar": ""})
    for to in ("out/part-{:05d}.tar", "hex/{:02x}.tar", "deep/{:03d}/x.tar"):
        with pytest.raises(RequestError, match="already has 1 shards"):
            pack(str(images), f"{tmp_path}/{to}")
    for to in ("out/{:05d}.tar", "hex/{:02d}.tar", "deep/{:03d}/y.tar", "out/{{{:d}}}.tar"):
        report = pack(str(images), f"{tmp_path}/{to}")
        assert report.shards == (f"{tmp_path}/{to}".format(0),)
        assert Path(report.shards[0]).is_file()


def test_relative_targets(images: Path, tmp_path: Path) -> None:
    here = os.path.relpath(tmp_path)
    assert Path(pack(str(images), f"{here}/{{}}.tar").shards[0]).is_file()


def test_a_file_that_vanishes_is_an_error_and_whole_shards_stay(images: Path, tmp_path: Path) -> None:
    def vanish(url: str, samples: int) -> None:
        (images / "дом и сад.webp").unlink()

    with pytest.raises(RunError, match="дом и сад.webp' was listed and cannot be read"):
        pack(str(images), f"{tmp_path}/out/{{:d}}.tar", samples_per_shard=6, on_shard=vanish)
    assert os.listdir(tmp_path / "out") == ["0.tar"]
    assert unpack(f"{tmp_path}/out/0.tar")[1].images == 6


def test_a_target_that_cannot_be_written(images: Path, tmp_path: Path) -> None:
    touch(tmp_path, {"file": ""})
    with pytest.raises(StoreError, match="cannot write"):
        pack(str(images), f"{tmp_path}/file/{{}}.tar")


def test_links_that_lead_nowhere_are_refused_before_anything_is_written(images: Path, tmp_path: Path) -> None:
    (images / "good.jpg").symlink_to("cats/a.jpg")
    (images / "notes").symlink_to("nowhere")
    to = f"{tmp_path}/out/{{:d}}.tar"
    report = pack(str(images), to)
    assert report.samples == 8 and "notes" in report.ignored
    for name, content in (("lost.jpg", "nowhere.jpg"), ("good.json", "nowhere.json"), ("loop.png", "loop.png")):
        (images / name).symlink_to(content)
        with pytest.raises(RequestError, match=rf"has 1 link to what is not there.*\({name}\); remove or mend"):
            pack(str(images), f"{tmp_path}/other/{{:d}}.tar")
        (images / name).unlink()
    (images / "lost.jpg").symlink_to("nowhere.jpg")
    touch(tmp_path, {"list.csv": "path\nimages/lost.jpg\n"})
    with pytest.raises(RequestError, match="lists what is not there: 1 file"):
        pack(f"{tmp_path}/list.csv", f"{tmp_path}/other/{{:d}}.tar")
    assert not (tmp_path / "other").exists()


def test_pipes_and_folders_are_never_opened(images: Path, tmp_path: Path) -> None:
    os.mkfifo(images / "pipe.jpg")
    os.mkfifo(images / "cats" / "a.cls")
    (images / "folder.png").symlink_to("dogs")
    report = pack(str(images), f"{tmp_path}/out/{{:d}}.tar")
    assert report.samples == 7
    assert report.ignored == ("cats/a.cls", "folder.png", "lonely.txt", "notes.md", "pipe.jpg")
    touch(tmp_path, {"list.csv": "path\nimages/pipe.jpg\n"})
    with pytest.raises(RequestError, match="lists what is not there: 1 file"):
        pack(f"{tmp_path}/list.csv", f"{tmp_path}/other/{{:d}}.tar")


def test_a_target_that_fills_up_is_named_and_was_begun(images: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(
            RunError, match=r"cannot write '.*/out/0\.tar': .*File too large.*remove them and pack again"
        ):
            pack(str(images), f"{tmp_path}/out/{{:d}}.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path / "out") == []
