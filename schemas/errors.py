"""Every error that a user can meet, in one tree.

    ClipdecoderError            base; catch this to catch everything of ours
    ├── RequestError            refused before work starts; nothing was touched (command line: exit 2)
    │   ├── ConfigError         clipdecoder.toml or an environment variable
    │   ├── TaxonomyError       the taxonomy file; `problems` holds every violation, each with its line
    │   ├── ShardPatternError   the SHARDS argument: matches nothing, two shards of one name
    │   ├── ModelError          a model that is unknown, unreadable or of the wrong kind
    │   ├── StoreError          the store: not writable, not a store, nothing in it yet
    │   └── QueryError          SQL that is wrong, or that the sandbox refuses
    ├── ShardError              a bad shard costs a task: `status` says how (missing, not_a_tar, ...)
    ├── SampleError             a bad image costs a row: `status` and `detail` go into the row
    └── RunError                work was done and something failed; the same command goes on (exit 1)

A message names the value, the known alternatives and the next step:

    try:
        run = tag(request)
    except RequestError as error:
        ...  # show it; nothing was touched
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from schemas.sample import SampleStatus, ShardStatus


class ClipdecoderError(Exception):
    """Base of all errors raised on purpose."""


class RequestError(ClipdecoderError, ValueError):
    """The request cannot be carried out as it stands; it was refused before any work."""


class ConfigError(RequestError):
    """A setting in clipdecoder.toml, the environment or the command line is wrong."""


class TaxonomyError(RequestError):
    """A taxonomy file breaks a rule. `problems` lists all violations, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        head = f"the taxonomy has {len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}:"
        super().__init__("\n  ".join((head, *self.problems)))


class ShardPatternError(RequestError):
    """The SHARDS argument names nothing, or names two shards with one id."""


class ModelError(RequestError):
    """A model cannot be found, read, or used this way."""


class StoreError(RequestError):
    """The store cannot be written, or lacks what was asked of it."""


class QueryError(RequestError):
    """SQL that DuckDB cannot run, or that the read-only sandbox refuses."""


class ShardError(ClipdecoderError):
    """A shard cannot be read to its end. `status` is its short code."""

    def __init__(self, status: ShardStatus, message: str) -> None:
        self.status = status
        super().__init__(message)


class SampleError(ClipdecoderError):
    """One image cannot be scored. `status` and `detail` become its row, and its `size` where it could be decoded."""

    def __init__(self, status: SampleStatus, detail: str, size: tuple[int, int] | None = None) -> None:
        self.status = status
        self.detail = detail
        self.size = size  # width, height as a person sees it
        super().__init__(f"{status}: {detail}")


class RunError(ClipdecoderError):
    """A run did work and did not end well; what is finished stays finished."""


def one_of(kind: str, value: object, known: Iterable[object]) -> str:
    """Return the sentence every "unknown name" error uses: the value, then the alternatives in order."""
    names = ", ".join(sorted(str(name) for name in known)) or "none"
    return f"unknown {kind} {value!r}; known: {names}"
