"""From a training request to a plan: what is wrong with the request is found here, before any work."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flows.models import load_encoders, precise_name
from flows.tagging.features import FeatureRequest
from flows.tagging.plan import check_dataset_root, default_name
from flows.training.ground_truth import Source
from schemas.config import EncodeOptions, TrainRequest
from schemas.decoding import decoding_name
from schemas.errors import ConfigError, RequestError, TaxonomyError, one_of
from schemas.taxonomy import Taxonomy
from schemas.training import TrainConfig, train_config
from storage.files import Folder, read_text
from storage.patterns import ShardList, list_shards
from storage.runs import read_runs
from storage.taxonomies import find_taxonomy

if TYPE_CHECKING:
    from clipdecoder.encoders.encoder import EncoderPair


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Shards to learn from."""

    name: str
    found: ShardList
    remembered: bool = False  # as the store remembers them, and not as they were just listed
    max_pixels: int | None = None  # that they were tagged with; None: as the request says


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """A checked request, with the encoders loaded."""

    request: TrainRequest
    taxonomy: Taxonomy
    novel: tuple[str, ...]
    datasets: tuple[Dataset, ...]
    encoders: EncoderPair

    @property
    def sources(self) -> tuple[Source, ...]:
        """The shards, with the features that training needs: where the backbone stays as it is patch tokens, kept."""
        frozen = self.request.recipe.finetune == "none"
        return tuple(
            Source(
                wanted=replace(
                    feature_request(self.request, self.request.store, each.name, self.encoders, tokens=frozen),
                    max_pixels=each.max_pixels or self.request.max_pixels,
                    remembered=each.remembered,
                ),
                shards=each.found.shards,
            )
            for each in self.datasets
        )


def plan_train(request: TrainRequest, datasets: Sequence[Dataset] | None = None) -> TrainPlan:
    """Return the plan of a training. Touches nothing.

    Args:
        request: what is asked.
        datasets: what to learn from; None: the one that the request names.

    Raises:
        RequestError: the taxonomy, the list of novel labels, a pattern, an encoder, the recipe or the store is wrong.
    """
    from clipdecoder.training.model import count_trained

    folder = Folder(request.store)
    taxonomy = find_taxonomy(folder, request.taxonomy)
    novel = read_novel(request.novel, taxonomy)
    chosen = tuple(datasets) if datasets is not None else (_one_dataset(request, folder),)
    base = precise_name(decoding_name(request.base, request.decode), request.precision, request.device)
    encoders = load_encoders(base, request.text, request.device)
    encoders.text.check_texts(taxonomy)
    # A backbone without patch tokens, or with too few blocks, is refused now and not after an hour.
    encoders.image.token_shape  # noqa: B018
    count_trained(encoders.image.backbone, request.recipe.finetune)
    return TrainPlan(request=request, taxonomy=taxonomy, novel=novel, datasets=chosen, encoders=encoders)


def _one_dataset(request: TrainRequest, folder: Folder) -> Dataset:
    found = list_shards(request.shards)
    name = request.name or default_name(found.root)
    check_dataset_root(name, found.root, read_runs(folder))
    return Dataset(name=name, found=found)


def read_recipe(location: str | None, given: dict[str, Any]) -> TrainConfig:
    """Return the recipe in a TOML file, with the settings that were given beside it in their place.

    Raises:
        RequestError: the file cannot be read.
        ConfigError: it is not TOML, or a setting is unknown or out of range.
    """
    values: dict[str, Any] = {}
    if location is not None:
        try:
            values = tomllib.loads(read_text(location))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{location}: not valid TOML: {error}") from None
    return train_config(**values | {name: value for name, value in given.items() if value is not None})


def read_novel(location: str | None, taxonomy: Taxonomy) -> tuple[str, ...]:
    """Return the label ids in a file, one a line; empty lines and what follows a `#` are passed over.

    Raises:
        RequestError: the file cannot be read.
        TaxonomyError: an id is no active label of the taxonomy.
    """
    if location is None:
        return ()
    known = {label.id for label in taxonomy.active_labels()}
    lines = [line.partition("#")[0].strip() for line in read_text(location).splitlines()]
    problems = [
        f"{location}:{number}: {one_of('label', label_id, known)}"
        for number, label_id in enumerate(lines, start=1)
        if label_id and label_id not in known
    ]
    if problems:
        raise TaxonomyError(problems)
    novel = tuple(dict.fromkeys(label_id for label_id in lines if label_id))
    if len(novel) == len(known):
        raise RequestError(f"{location} names every label of the taxonomy: nothing would be left to train on")
    return novel


def feature_request(
    options: EncodeOptions, store: str, dataset: str, encoders: EncoderPair, *, tokens: bool
) -> FeatureRequest:
    """Return which features of annotated shards are wanted; tokens that are made are kept."""
    return FeatureRequest(
        store=store,
        dataset=dataset,
        encoder_id=encoders.image.encoder_id,
        batch_size=options.batch_size,
        decode_threads=options.decode_threads,
        max_pixels=options.max_pixels,
        tokens=tokens,
        store_tokens=tokens,
    )
