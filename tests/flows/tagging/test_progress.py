"""The progress bar: shown on a terminal, silent elsewhere."""

import io

from rich.console import Console

from flows.tagging.plan import plan_tag
from flows.tagging.progress import progress_bar, watcher
from flows.tagging.run import run_tag_here
from tests.flows.world import World


def shown(world: World, *, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with progress_bar(console):
        run_tag_here(plan_tag(world.request()), watcher.get())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_sees_shards_and_images(world: World) -> None:
    assert "2/2" in (text := shown(world, terminal=True)) and "10 images" in text


def test_elsewhere_nothing_is_written(world: World) -> None:
    assert shown(world, terminal=False) == ""
