"""The parts of a trained model as named tensors of one safetensors file.

Tensors are named by part: `head.*`, `linear.*`, `reference.*`, `baseline.*`, `learned_from`, and `backbone.*`
where it was trained too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from clipdecoder.heads.group_head import Head, build_head
from clipdecoder.regression.linear import LinearBranch
from clipdecoder.scoring.standardised import Reference
from schemas.checkpoint import CheckpointRecord
from schemas.errors import ModelError

Arrays = dict[str, NDArray[Any]]

_NEXT = "put the file back that was written with it, or train again"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What training made."""

    head: Head | None
    linear: LinearBranch | None
    reference: Reference
    baselines: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # what `evaluate` sets it beside
    learned_from: NDArray[np.uint64]  # head of each picture's SHA-256: those that trained, chose or calibrated
    backbone: Mapping[str, torch.Tensor] = field(default_factory=dict)  # empty: the base's own weights

    def part(self, name: str) -> Arrays:
        """Return the arrays of one baseline."""
        return _part(name, self.baselines)

    def to_bytes(self) -> bytes:
        """Return all tensors as one safetensors file."""
        arrays: Arrays = {"learned_from": self.learned_from, "reference.embeddings": self.reference.embeddings_SD}
        if self.reference.tokens_STC is not None:
            arrays["reference.tokens"] = self.reference.tokens_STC
        if self.linear is not None:
            arrays |= _prefixed("linear", self.linear.arrays())
        if self.head is not None:
            arrays |= _prefixed("head", {name: value.cpu().numpy() for name, value in self.head.state_dict().items()})
        arrays |= _prefixed("baseline", self.baselines)
        arrays |= _prefixed("backbone", {name: value.cpu().numpy() for name, value in self.backbone.items()})
        # Not `ascontiguousarray`, which makes a list of one of a number.
        return save({name: np.asarray(value, order="C") for name, value in arrays.items()})

    @classmethod
    def from_bytes(cls, data: bytes, record: CheckpointRecord) -> Parts:
        """Return what `to_bytes` wrote, bit for bit.

        Raises:
            ModelError: it is no safetensors file, or not of the parts that the record names.
        """
        try:
            arrays = load(data)
            head = build_head(record.head) if record.head is not None else None
            if head is not None:
                head.load_state_dict({n: torch.from_numpy(v.copy()) for n, v in _part("head", arrays).items()})
            return cls(
                head=head,
                linear=LinearBranch.from_arrays(_part("linear", arrays)) if "linear" in record.branches else None,
                reference=Reference(
                    embeddings_SD=arrays["reference.embeddings"], tokens_STC=arrays.get("reference.tokens")
                ),
                learned_from=arrays["learned_from"],
                baselines=_part("baseline", arrays),
                backbone={n: torch.from_numpy(v.copy()) for n, v in _part("backbone", arrays).items()},
            )
        except KeyError as error:
            raise ModelError(
                f"the checkpoint's weights lack {error}, which its config.json asks for; {_NEXT}"
            ) from None
        except (SafetensorError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())  # PyTorch writes a line per weight
            raise ModelError(f"the checkpoint's weights do not fit its config.json ({reason}); {_NEXT}") from None


def _prefixed(part: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {f"{part}.{name}": value for name, value in arrays.items()}


def _part(part: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {name.removeprefix(f"{part}."): value for name, value in arrays.items() if name.startswith(f"{part}.")}
