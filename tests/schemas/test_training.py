"""Recipes: what is refused, and that a head gets the shape that its recipe says."""

import pytest

from schemas.errors import ConfigError
from schemas.training import HeadConfig, TrainConfig, train_config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learnig_rate": 0.1}, ["unknown training setting 'learnig_rate'", "learning_rate"]),
        ({"epochs": 0}, ["epochs = 0", "greater than or equal to 1"]),
        ({"width": 100, "num_heads": 8}, ["width 100 is no multiple of num_heads 8"]),
        ({"finetune": "some"}, ["finetune = 'some'", "'none' or 'all'"]),
        ({"finetune": 0}, ["finetune = 0"]),
        ({"missing": "maybe"}, ["missing = 'maybe'", "'negative' or 'unknown'"]),
        ({"alpha": 0, "beta": 0, "distillation": 0}, ["nothing would be learned"]),
        ({"probability_clip": 1.0}, ["probability_clip = 1.0"]),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        train_config(**values)
    assert all(word in str(refused.value) for word in words)


def test_every_knob_says_what_it_means_or_is_named_as_its_library_names_it() -> None:
    plain = {"epochs", "num_heads", "feedforward_width", "dropout", "max_grad_norm", "seed"}
    undescribed = {name for name, field in TrainConfig.model_fields.items() if not field.description}
    assert undescribed == plain


@pytest.mark.parametrize("finetune", ["none", "all", 3])
def test_finetune_takes_a_word_or_a_number_of_blocks(finetune: object) -> None:
    assert train_config(finetune=finetune).finetune == finetune


def test_the_head_has_the_shape_of_its_recipe() -> None:
    recipe = train_config(width=64, num_heads=4, feedforward_width=100, dropout=0.5, residual=False)
    shape = recipe.head(token_width=10, query_width=20, num_labels=30)
    assert shape == HeadConfig(
        token_width=10, query_width=20, width=64, num_heads=4, feedforward_width=100, dropout=0.5, residual=False
    )


def test_only_a_head_with_groups_has_a_number_of_labels() -> None:
    assert train_config(groups=7).head(token_width=10, query_width=20, num_labels=30).num_labels == 30
    with pytest.raises(ValueError, match="go together"):
        HeadConfig(token_width=10, query_width=20, groups=7)


def test_a_recipe_survives_json() -> None:
    recipe = train_config(finetune=2, missing="unknown", epochs=3)
    assert TrainConfig.model_validate_json(recipe.model_dump_json()) == recipe
