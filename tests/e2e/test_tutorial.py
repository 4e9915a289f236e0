"""The tutorial, word for word, as a reader types it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
STEPS = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_every_step_does_what_it_says(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "CLIPDECODER_ORCHESTRATE": "false", "COLUMNS": "200"}
    said = []
    for step in STEPS:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{step}\n{done.stderr}"
        said.append(done.stdout)
    assert "201 images: 200 scored, 1 failed (1 truncated)" in "".join(said)
    assert (tmp_path / "stars" / "00000.tar").is_file() and "white-triangle" in "".join(said)
