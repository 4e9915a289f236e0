"""NUS-WIDE on a made-up tree with the official layout: each picture keeps its own labels, whatever is missing."""

import json
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from examples.nus_wide.__main__ import main
from examples.nus_wide.labels import TEMPLATE, make_labels
from examples.nus_wide.official import iter_tags, read_lines
from examples.nus_wide.prepare import PUBLISHED, prepare
from schemas.errors import RequestError, RunError
from schemas.label_words import LabelWords
from schemas.taxonomy import parse_taxonomy
from schemas.training import train_config
from storage.ground_truth import read_labels

RECIPES = Path(__file__).parents[2] / "examples" / "nus_wide"

TAGS = ("nature", "dog", "New", "red car", "nature", "no", "sky")  # `nature` twice; `dog` and `sky` are concepts
CONCEPTS = ("Dog", "sky", "night time")
IMAGES = tuple(f"{word}/{number:04d}_{number + 7}.jpg" for word in ("actor", "zoo") for number in range(1, 7))
TRAIN = (7, 0, 2, 5, 9, 10, 11)  # in an order of their own, as in the official lists
TEST = (8, 1, 4, 3)  # image 6 is in neither list

TAGS_OF = tuple(tuple((image + k) % 7 for k in range(image % 3)) for image in range(len(IMAGES)))  # column numbers
HUMAN_OF = tuple(tuple(k for k in range(3) if (image >> k) & 1) for image in range(len(IMAGES)))


def _write(path: Path, lines: list[str], end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode())


def _listed(images: tuple[int, ...]) -> list[str]:
    return [IMAGES[image].replace("/", "\\") for image in images]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write the official files, with Windows line ends in the lists, and a dozen pictures."""
    root = tmp_path / "nus-wide"
    _write(root / "ImageList/Imagelist.txt", _listed(tuple(range(len(IMAGES)))), "\r\n")
    _write(root / "ImageList/TrainImagelist.txt", _listed(TRAIN), "\r\n")
    _write(root / "ImageList/TestImagelist.txt", [*_listed(TEST), "", ""], " \r\n")
    _write(root / "NUS_WID_Tags/TagList1k.txt", list(TAGS))
    _write(root / "ConceptsList/Concepts81.txt", list(CONCEPTS), " \n")
    rows = ["".join(f"{int(k in columns)}\t" for k in range(len(TAGS))) for columns in TAGS_OF]
    _write(root / "NUS_WID_Tags/AllTags1k.txt", [*rows, ""])
    for k, concept in enumerate(CONCEPTS):
        name = concept.replace(" ", "_")
        _write(root / f"Groundtruth/AllLabels/Labels_{name}.txt", [str(int(k in human)) for human in HUMAN_OF])
    for number, image in enumerate(IMAGES):
        path = root / "Flickr" / image
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number * 20, 0, 0)).save(path)
    return root


def _labels_in(folder: Path) -> dict[str, list[str]]:
    """Return what the side files of a folder's shards say, by key."""
    found = {}
    for shard in sorted(folder.iterdir()):
        with tarfile.open(shard) as tar:
            for name in tar.getnames():
                if name.endswith(".json"):
                    member = tar.extractfile(name)
                    assert member is not None
                    found[name.removesuffix(".json")] = json.loads(member.read())["labels"]
    return found


def _expected(image: int, human: bool) -> set[str]:
    ids = {"nature": "nature", "New": "new-2", "red car": "red-car", "no": "no"}
    seen = {ids[TAGS[column]] for column in TAGS_OF[image] if TAGS[column] in ids}
    return seen | ({("dog", "sky", "night-time")[k] for k in HUMAN_OF[image]} if human else set())


def _key(image: int) -> str:
    return IMAGES[image].removesuffix(".jpg")


def test_every_picture_gets_its_own_labels_and_bytes(tree: Path, tmp_path: Path) -> None:
    report = prepare(tree, tree / "Flickr", tmp_path / "out", samples_per_shard=3)
    train, test = _labels_in(tmp_path / "out/train"), _labels_in(tmp_path / "out/test")
    assert {key: set(labels) for key, labels in train.items()} == {_key(i): _expected(i, False) for i in TRAIN}
    assert {key: set(labels) for key, labels in test.items()} == {_key(i): _expected(i, True) for i in TEST}
    assert all(len(labels) == len(set(labels)) for labels in (*train.values(), *test.values()))
    with tarfile.open(tmp_path / "out/test/00000.tar") as tar:
        member = tar.extractfile(IMAGES[1])
        assert member is not None and member.read() == (tree / "Flickr" / IMAGES[1]).read_bytes()
    assert [len(report.splits[name].shards) for name in ("train", "test")] == [3, 2]
    assert (tmp_path / "out/missing.txt").read_text() == ""


def test_training_pictures_carry_no_novel_label(tree: Path, tmp_path: Path) -> None:
    report = prepare(tree, tree / "Flickr", tmp_path / "out")
    novel = set((tmp_path / "out/novel.txt").read_text().split())
    assert novel == {"dog", "sky", "night-time"}
    assert all(novel.isdisjoint(labels) for labels in _labels_in(tmp_path / "out/train").values())
    assert any(not novel.isdisjoint(labels) for labels in _labels_in(tmp_path / "out/test").values())
    assert report.splits["train"].with_novel == 0 < report.splits["test"].with_novel


def test_the_product_reads_the_shards_with_the_taxonomy(tree: Path, tmp_path: Path) -> None:
    prepare(tree, tree / "Flickr", tmp_path / "out")
    taxonomy = parse_taxonomy((tmp_path / "out/taxonomy.yaml").read_text())
    assert [label.id for label in taxonomy.labels] == ["nature", "new-2", "red-car", "no", "dog", "sky", "night-time"]
    assert [label.name for label in taxonomy.labels] == ["nature", "New", "red car", "no", "Dog", "sky", "night time"]
    assert taxonomy.templates == (TEMPLATE,) == ("a photo of a {}.",)
    for split, images in (("train", TRAIN), ("test", TEST)):
        words, found = LabelWords(taxonomy), read_labels(str(tmp_path / f"out/{split}/00000.tar"))
        assert len(found.samples) == len(images) and not found.damaged
        assert all(list(words.find(sample.labels)) == list(sample.labels) for sample in found.samples.values())
        assert not words.unknown


def test_a_missing_picture_is_named_and_shifts_nothing(tree: Path, tmp_path: Path) -> None:
    for image in (2, 4):
        (tree / "Flickr" / IMAGES[image]).unlink()
    report = prepare(tree, tree / "Flickr", tmp_path / "out")
    train, test = _labels_in(tmp_path / "out/train"), _labels_in(tmp_path / "out/test")
    assert {key: set(labels) for key, labels in train.items()} == {
        _key(i): _expected(i, False) for i in TRAIN if i != 2
    }
    assert {key: set(labels) for key, labels in test.items()} == {_key(i): _expected(i, True) for i in TEST if i != 4}
    assert (tmp_path / "out/missing.txt").read_text().split() == [IMAGES[2], IMAGES[4]]
    told = "\n".join(report.lines())
    assert f"train: not there, and left out: 1 of 7 listed pictures (all in missing.txt): {IMAGES[2]}" in told
    assert f"test: not there, and left out: 1 of 4 listed pictures (all in missing.txt): {IMAGES[4]}" in told


def test_the_report_counts_and_says_that_the_split_is_not_the_published_one(tree: Path, tmp_path: Path) -> None:
    lines = prepare(tree, tree / "Flickr", tmp_path / "out").lines()
    assert lines[0] == "labels: 4 seen, 3 novel, 7 in taxonomy.yaml"
    assert lines[1].startswith("train: 7 images in 1 shards; ") and lines[2].startswith("test: 4 images in 1 shards; ")
    assert "1 images of Imagelist.txt are in neither list, and are left out" in lines
    assert "7 train images (not 161,789), 4 test images (not 107,859), 7 tags (not 1,000)" in lines[-1]
    assert "3 concepts (not 81), 4 seen labels (not 925)" in lines[-1]
    assert PUBLISHED["train images"] + PUBLISHED["test images"] == 269_648


def test_files_may_lie_without_the_archives_folders(tree: Path, tmp_path: Path) -> None:
    for folder in ("ImageList", "NUS_WID_Tags", "ConceptsList", "Groundtruth"):
        for path in (tree / folder).iterdir():
            path.rename(tree / path.name)
    prepare(tree, tree / "Flickr", tmp_path / "out")
    assert len(_labels_in(tmp_path / "out/test")) == len(TEST)


def _shorten(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("NUS_WID_Tags/AllTags1k.txt", _shorten, "AllTags1k.txt has 11 lines, expected 12"),
        (
            "NUS_WID_Tags/AllTags1k.txt",
            lambda path: path.write_text("0 " * 7 + "\n" + "\n" * 20),
            "line 2 has 0 columns",
        ),
        (
            "NUS_WID_Tags/AllTags1k.txt",
            lambda path: path.write_text("0 0 0 0 0 0 1\n" * 13),
            "has 13 lines, expected 12",
        ),
        ("NUS_WID_Tags/AllTags1k.txt", lambda path: path.write_text("0\t1\t\n"), "line 1 has 2 columns, expected 7"),
        ("NUS_WID_Tags/AllTags1k.txt", lambda path: path.write_text("0 1 0 0 0 0 2\n"), "line 1 has '2', expected 0"),
        ("Groundtruth/AllLabels/Labels_sky.txt", _shorten, "Labels_sky.txt has 10 lines, expected 12"),
        (
            "Groundtruth/AllLabels/Labels_sky.txt",
            lambda path: path.write_text("0\n" * 11 + "yes\n"),
            "line 12 is 'yes'",
        ),
        ("Groundtruth/AllLabels/Labels_sky.txt", lambda path: path.write_text("0\n\n0\n"), "line 2 is blank"),
        ("Groundtruth/AllLabels/Labels_sky.txt", Path.unlink, "no Labels_sky.txt"),
        ("ImageList/Imagelist.txt", _shorten, "names zoo/0005_12.jpg, which Imagelist.txt does not have"),
        (
            "ImageList/Imagelist.txt",
            lambda path: path.write_text("a\\1.jpg\na/1.jpg\n"),
            "line 2: a/1.jpg stands there",
        ),
        (
            "ImageList/TestImagelist.txt",
            lambda path: path.write_text("zoo\\0002_9.jpg\n"),
            "which TrainImagelist.txt has",
        ),
        ("NUS_WID_Tags/TagList1k.txt", lambda path: path.write_bytes(b"caf\xe9\n"), "TagList1k.txt is not UTF-8"),
        ("ConceptsList/Concepts81.txt", Path.unlink, "no ConceptsList/Concepts81.txt or Concepts81.txt"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_anything_is_written(
    tree: Path, tmp_path: Path, name: str, change: Callable[[Path], object], message: str
) -> None:
    change(tree / name)
    with pytest.raises(RequestError, match=message):
        prepare(tree, tree / "Flickr", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_wrong_folder_of_pictures_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"none of the 7 pictures of TrainImagelist.txt is there, .*0001_8.jpg for one"
    ):
        prepare(tree, tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_refused(tree: Path, tmp_path: Path) -> None:
    prepare(tree, tree / "Flickr", tmp_path / "out")
    with pytest.raises(RequestError, match="has files already"):
        prepare(tree, tree / "Flickr", tmp_path / "out")


def test_a_target_that_cannot_be_written_ends_the_run(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="run the same command again"):
        prepare(tree, tree / "Flickr", tmp_path / "file/out")


def test_tags_are_read_one_line_at_a_time(tree: Path) -> None:
    assert [tuple(columns) for columns in iter_tags(tree, len(IMAGES), len(TAGS))] == [
        tuple(sorted(columns)) for columns in TAGS_OF
    ]
    with pytest.raises(RequestError, match="12 lines, expected 2"):
        list(iter_tags(tree, 2, len(TAGS)))


def test_lines_lose_their_ends_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfone two \r\nthree\x85four\r\n\r\n")
    with pytest.raises(RequestError, match="not UTF-8"):
        read_lines(path)
    path.write_bytes("\ufeffone two \r\nthree\u2028four\r\n\r\n".encode())
    assert read_lines(path) == ["one two", "three\u2028four"]


def test_names_that_differ_in_case_or_underscores_are_one_label() -> None:
    labels = make_labels(["Night_Time", "sea", "SEA", "all", "café", "cafe", "日本"], ["night  time"])
    assert labels.seen == {"sea": "sea", "all-2": "all", "cafe": "café", "cafe-2": "cafe", "label": "日本"}
    assert labels.novel == {"night-time": "night time"} and labels.of_concepts == {"night  time": "night-time"}
    assert labels.of_columns == (None, "sea", "sea", "all-2", "cafe", "cafe-2", "label")
    assert labels.seen_of([0, 1, 2, 4]) == ["sea", "cafe"]


_NAMES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8), min_size=1
)


@given(tags=_NAMES, concepts=_NAMES)
def test_any_names_make_a_taxonomy(tags: list[str], concepts: list[str]) -> None:
    tags = [tag for tag in tags if tag.strip("_")] or ["tag"]
    concepts = [concept for concept in concepts if concept.strip("_")] or ["concept"]
    labels = make_labels(tags, concepts)
    taxonomy = parse_taxonomy(labels.taxonomy_yaml())
    assert {label.id: label.name for label in taxonomy.labels} == labels.seen | labels.novel
    assert len(labels.of_columns) == len(tags) and set(labels.of_concepts) == set(concepts)
    assert set(labels.of_columns) - {None} == set(labels.seen) and set(labels.of_concepts.values()) == set(labels.novel)


def test_the_command_says_what_it_did_and_what_it_refuses(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--nus-wide", str(tree), "--images", str(tree / "Flickr"), "--to", str(tmp_path / "out")]
    main(arguments)
    told = capsys.readouterr()
    assert told.out.startswith("labels: 4 seen, 3 novel") and "train/00000.tar: 7 images" in told.err
    done = subprocess.run(
        [sys.executable, "-m", "examples.nus_wide", *arguments], cwd=RECIPES.parents[1], capture_output=True, text=True
    )
    assert done.returncode == 2 and "has files already" in done.stderr
    with pytest.raises(SystemExit, match="failed: .*run the same command again"):
        main([*arguments[:-1], str(tree / "ImageList/Imagelist.txt/out")])


@pytest.mark.parametrize("name", ["paper.toml", "ours.toml"])
def test_recipes_are_valid_and_are_those_of_the_readme(name: str) -> None:
    config = train_config(**tomllib.loads((RECIPES / name).read_text()))
    assert f"--config examples/nus_wide/{name}" in (RECIPES / "README.md").read_text()
    assert (config.gamma_neg, config.gamma_pos, config.probability_clip) == (4, 0, 0.05)
    if name == "paper.toml":
        assert (config.alpha, config.beta, config.ema_decay, config.epochs) == (0.1, 1, 0.9997, 40)
        assert (config.finetune, config.learning_rate, config.sampled_labels) == ("all", 1e-4, 0)
        head = config.head(token_width=2048, query_width=512, num_labels=925)
        assert (head.width, head.num_heads, head.feedforward_width, head.groups) == (768, 8, 2048, 0)
    else:
        assert config.finetune == "none"
