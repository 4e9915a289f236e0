"""Our shards are WebDataset shards: its own reader sees the keys, bytes and labels that we packed."""

import json
from pathlib import Path

import pytest
import webdataset

from schemas.sample import MemberCounts
from storage.pack import pack
from storage.shards import iter_samples
from tests.nasty import jpeg


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its reader leaves the file open
def test_webdataset_reads_what_we_pack_as_we_do(tmp_path: Path) -> None:
    names = ["a", "with space", "deep/er/b", "n" * 150]
    rows = ["path,labels"]
    for seed, name in enumerate(names):
        path = tmp_path / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(seed))
        rows.append(f"{name}.jpg,dog;cat")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    pack(str(tmp_path / "labels.csv"), str(tmp_path / "out" / "{:05d}.tar"))
    shard = str(tmp_path / "out" / "00000.tar")

    theirs = {s["__key__"]: s for s in webdataset.WebDataset(shard, shardshuffle=False)}
    ours = {sample.key: sample for sample in iter_samples(shard, MemberCounts())}
    assert theirs.keys() == ours.keys() == set(names)
    for key, sample in ours.items():
        assert theirs[key]["jpg"] == sample.data
        assert json.loads(theirs[key]["json"]) == json.loads(sample.side["json"]) == {"labels": ["dog", "cat"]}
