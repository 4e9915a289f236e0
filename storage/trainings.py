"""What a training keeps while it runs, below `training/<training_id>/`: states and log. Gone when it is done."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from storage.files import Folder, iter_leftovers


@dataclass(kw_only=True)
class TrainingFolder:
    """The states of one training. The id is a digest of all that decides its result, so the same request finds it."""

    folder: Folder
    training_id: str
    _log: list[str] = field(default_factory=list)

    def load(self, stage: str) -> bytes | None:
        """Return the last state of a stage, or None where it has none yet."""
        try:
            return self.folder.read_bytes(self._path(f"{stage}.safetensors"))
        except FileNotFoundError:
            return None

    def save(self, stage: str, state: bytes) -> None:
        """Keep a stage's state in place of the one before: whole, or not at all."""
        self.folder.write_bytes(self._path(f"{stage}.safetensors"), state)

    def log(self, record: dict[str, Any]) -> None:
        """Add a line to `log.jsonl`."""
        if not self._log and self.folder.exists(self._path("log.jsonl")):
            self._log = self.folder.read_bytes(self._path("log.jsonl")).decode().splitlines()
        self._log.append(json.dumps(record))
        self.folder.write_bytes(self._path("log.jsonl"), ("\n".join(self._log) + "\n").encode())

    def clear(self) -> None:
        """Remove all of it, and what killed processes left of it half written."""
        place = f"training/{self.training_id}"
        for path in (*self.folder.list(place), *iter_leftovers(self.folder, place)):
            self.folder.remove(path)

    def _path(self, name: str) -> str:
        return f"training/{self.training_id}/{name}"
