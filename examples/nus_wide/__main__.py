"""Make shards of NUS-WIDE: `python -m examples.nus_wide --nus-wide DIR --images DIR --to OUT`.

Exit codes: 0 done, 1 a picture or a shard failed on the way, 2 refused and nothing was written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.nus_wide.prepare import prepare
from schemas.errors import RequestError, RunError


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, write shards and lists, and say what went where."""
    parser = argparse.ArgumentParser(prog="python -m examples.nus_wide", description="Make shards of NUS-WIDE.")
    parser.add_argument("--nus-wide", type=Path, required=True, help="folder with ImageList, NUS_WID_Tags, Groundtruth")
    parser.add_argument(
        "--images", type=Path, required=True, help="folder with the pictures, actor/0001_2124494179.jpg"
    )
    parser.add_argument("--to", type=Path, required=True, help="new or empty folder")
    parser.add_argument("--samples-per-shard", type=int, default=1000, help="images per shard (1000)")
    chosen = parser.parse_args(arguments)
    try:
        report = prepare(
            chosen.nus_wide,
            chosen.images,
            chosen.to,
            samples_per_shard=chosen.samples_per_shard,
            on_shard=_say_shard,
        )
    except RequestError as error:
        parser.error(str(error))
    except (RunError, OSError) as error:
        sys.exit(f"failed: {error}")
    sys.stdout.write("\n".join(report.lines()) + "\n")


def _say_shard(shard: str, images: int) -> None:
    sys.stderr.write(f"{shard}: {images} images\n")


if __name__ == "__main__":
    main()
