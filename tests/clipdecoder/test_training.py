"""The training loop: it learns, what it trains moves, and a killed one ends where an undisturbed one does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clipdecoder.encoders.backbone import Backbone, Features
from clipdecoder.heads.text_query_head import TextQueryHead
from clipdecoder.training.batches import TrainData
from clipdecoder.training.loop import Hooks, Trained, train_head
from clipdecoder.training.model import PixelTokens, TrainingModel, unfreeze
from clipdecoder.training.optimizer import one_cycle, parameter_groups
from clipdecoder.training.report import EpochReport
from schemas.errors import ConfigError, ModelError, RunError
from tests.clipdecoder.training_world import NUM_LABELS, make_data, recipe, weights_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, and far slower on cores that others use too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def held_out_accuracy(model: TrainingModel, data: TrainData) -> float:
    """Share of held-out images whose two labels are the two highest."""
    with torch.no_grad():
        logits_BK = logits(model, data)[80:]
    top = logits_BK.topk(2, dim=1).indices.sort(dim=1).values.numpy()
    truth = np.stack([np.flatnonzero(row) for row in data.targets.dense()[80:]])
    return float((top == truth).all(axis=1).mean())


def logits(model: TrainingModel, data: TrainData) -> Tensor:
    """Return logits_NK of all samples."""
    x_BTC = model.tokens(torch.from_numpy(np.array(data.inputs)))
    text = isinstance(model.head, TextQueryHead)
    logits_NK: Tensor = model.head(x_BTC, model.queries_KQ) if text else model.head(x_BTC)
    return logits_NK


def assert_same_weights(one: Trained, other: Trained, tolerance: float = 0.0) -> None:
    """Fail where a weight differs by more than the tolerance."""
    ours, theirs = weights_of(one.model), weights_of(other.model)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("changes", [{}, {"groups": 4}, {"alpha": 0.0, "ema_decay": 0.0, "sampled_labels": 0}])
def test_it_learns_what_there_is_to_learn(changes: dict[str, object]) -> None:
    data = make_data()
    trained = train_head(recipe(epochs=40, **changes), data)
    assert held_out_accuracy(trained.model, data) > 0.4  # chance: 1 in 66
    assert trained.reports[-1].losses["loss"] < 0.4 * trained.reports[0].losses["loss"]
    assert trained.best_epoch == 40 and trained.best_value is None
    assert not trained.model.training


def test_every_trainable_parameter_is_in_the_optimiser_once_and_moves() -> None:
    data = make_data()
    config = recipe(epochs=1, ema_decay=0.0)
    model = train_head(config, data).model
    start = train_head(config.model_copy(update={"learning_rate": 1e-30, "weight_decay": 0.0}), data).model
    groups = parameter_groups(model, config)
    given = [id(parameter) for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
    assert sorted(given) == sorted(id(parameter) for parameter in model.parameters())
    assert model.joint is not None and id(model.joint.projection.weight) in given
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, start.get_parameter(name))]
    assert still == []


def test_the_temperature_moves_and_is_reported() -> None:
    reports = train_head(recipe(), make_data()).reports
    assert all(report.temperature is not None for report in reports)
    assert abs(reports[-1].temperature - 1 / 0.07) > 0.05  # type: ignore[operator]
    assert train_head(recipe(alpha=0.0, epochs=1), make_data()).reports[0].temperature is None


def test_norms_biases_and_temperature_have_no_decay() -> None:
    config = recipe()
    model = train_head(config.model_copy(update={"epochs": 1}), make_data()).model
    for group in parameter_groups(model, config):
        dims = {parameter.ndim for parameter in group["params"]}  # type: ignore[attr-defined]
        assert dims <= {2} if group["weight_decay"] else dims <= {0, 1}


def test_the_same_arguments_give_the_same_weights_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = train_head(recipe(token_dropout=0.3, label_dropout=0.2), make_data())
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_weights(one, train_head(recipe(token_dropout=0.3, label_dropout=0.2), make_data()))
    other = train_head(recipe(token_dropout=0.3, label_dropout=0.2, seed=1), make_data())
    assert not np.array_equal(
        weights_of(one.model)["head.output.weight"], weights_of(other.model)["head.output.weight"]
    )


class Killed(Exception):
    """What ends a training in these tests."""


def kill_after(epoch: int, states: list[bytes], evaluate: Callable[[TrainingModel], float] | None) -> Hooks:
    """Return hooks that keep the states and end the training in the middle of the next epoch."""

    def on_step(step: int, _steps: int) -> None:
        if len(states) == epoch and step == 2:
            raise Killed

    return Hooks(evaluate=evaluate, on_step=on_step, save=states.append)


@pytest.mark.parametrize(
    "changes", [{}, {"ema_decay": 0.0, "groups": 3}, {"dropout": 0.3, "token_dropout": 0.5, "distillation": 0.5}]
)
def test_a_killed_training_ends_as_an_undisturbed_one(changes: dict[str, object]) -> None:
    data = make_data(teacher=True)
    config = recipe(**changes)

    def evaluate(model: TrainingModel) -> float:
        return held_out_accuracy(model, data)

    whole = train_head(config, data, Hooks(evaluate=evaluate))
    states: list[bytes] = []
    with pytest.raises(Killed):
        train_head(config, data, kill_after(2, states, evaluate))
    resumed = train_head(config, data, Hooks(evaluate=evaluate), state=states[-1])
    assert len(states) == 2
    assert_same_weights(whole, resumed, tolerance=1e-6)
    assert [report.epoch for report in resumed.reports] == [1, 2, 3, 4]
    assert (resumed.best_epoch, resumed.best_value) == (whole.best_epoch, whole.best_value)
    for ours, theirs in zip(whole.reports, resumed.reports, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, abs=1e-6)
        assert ours.learning_rate == theirs.learning_rate


def test_a_finished_training_resumes_to_its_result() -> None:
    states: list[bytes] = []
    whole = train_head(recipe(), make_data(), Hooks(save=states.append))
    again = train_head(recipe(), make_data(), state=states[-1])
    assert_same_weights(whole, again)
    assert again.reports == whole.reports and again.best_epoch == 4


def test_a_state_of_another_training_is_refused() -> None:
    states: list[bytes] = []
    train_head(recipe(epochs=1), make_data(), Hooks(save=states.append))
    with pytest.raises(ConfigError, match=r"epochs = 1 and not 2, learning_rate = 0\.003 and not 0\.1"):
        train_head(recipe(epochs=2, learning_rate=0.1), make_data(), state=states[0])
    wider = make_data()
    wider = dataclasses.replace(wider, inputs=np.tile(wider.inputs, (1, 1, 2)))
    with pytest.raises(ModelError, match="the saved training is of another model"):
        train_head(recipe(epochs=1), wider, state=states[0])
    for data in (b"", b"not a state", states[0][: len(states[0]) // 2], b"\x80\x04pickle" + bytes(100)):
        with pytest.raises(ModelError, match="are no training state"):
            train_head(recipe(epochs=1), make_data(), state=data)


def test_stage_b_stops_early_on_the_schedule_of_all_epochs() -> None:
    states: list[bytes] = []
    data = make_data()
    whole = train_head(recipe(), data, Hooks(save=states.append))
    stopped = train_head(recipe(), data, stop_after=2)
    assert [report.learning_rate for report in stopped.reports] == [r.learning_rate for r in whole.reports[:2]]
    assert stopped.best_epoch == 2


def test_the_best_epochs_averaged_weights_are_returned_and_patience_ends_it() -> None:
    values = iter([0.1, 0.5, 0.4, float("nan"), 0.3])
    seen: list[dict[str, np.ndarray]] = []

    def evaluate(model: TrainingModel) -> float:
        assert not model.training and not torch.is_grad_enabled()
        seen.append({name: value.copy() for name, value in weights_of(model).items()})
        return next(values)

    trained = train_head(recipe(epochs=20, patience=3), make_data(), Hooks(evaluate=evaluate))
    assert len(trained.reports) == 5
    assert (trained.best_epoch, trained.best_value) == (2, 0.5)
    assert [report.best_epoch for report in trained.reports] == [1, 2, 2, 2, 2]
    for name, value in weights_of(trained.model).items():
        np.testing.assert_array_equal(value, seen[1][name])


def test_the_average_lags_behind_the_weights() -> None:
    evaluated: list[Tensor] = []
    live: list[Tensor] = []

    def evaluate(model: TrainingModel) -> float:
        (evaluated if len(evaluated) < 1 else live).append(model.head.layer.out.weight.clone())
        return 0.0

    config = recipe(epochs=1)
    train_head(config, make_data(), Hooks(evaluate=evaluate))
    train_head(config.model_copy(update={"ema_decay": 0.0}), make_data(), Hooks(evaluate=evaluate))
    assert not torch.equal(evaluated[0], live[0])
    torch.testing.assert_close(evaluated[0], live[0], rtol=0, atol=0.05)


def test_progress_is_told_step_by_step_and_epoch_by_epoch() -> None:
    steps: list[tuple[int, int]] = []
    reports: list[EpochReport] = []
    hooks = Hooks(on_step=lambda step, total: steps.append((step, total)), on_epoch=reports.append)
    trained = train_head(recipe(epochs=2, distillation=0.1), make_data(teacher=True), hooks)
    assert steps == [(step, 5) for _ in range(2) for step in range(1, 6)]
    assert tuple(reports) == trained.reports
    report = reports[0]
    assert (report.epoch, report.epochs, report.steps) == (1, 2, 5)
    parts = report.losses
    weighted = parts["asymmetric"] + 0.1 * parts["contrastive"] + 0.1 * parts["distillation"]
    assert parts["loss"] == pytest.approx(weighted, rel=1e-5)
    assert report.images_per_second == pytest.approx(80 / report.seconds)
    assert report.grad_norm > 0


@pytest.mark.parametrize("broken_epoch", [1, 2])
def test_a_loss_that_is_no_number_stops_it_and_keeps_the_last_good_state(broken_epoch: int) -> None:
    data = make_data(teacher=True)
    assert data.teacher is not None
    calls = []

    def broken_teacher(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        calls.append(1)
        bad = len(calls) == 5 * (broken_epoch - 1) + 3
        return np.full((len(rows), len(columns)), np.nan, np.float32) if bad else data.teacher(rows, columns)  # type: ignore[misc]

    states: list[bytes] = []
    config = recipe(distillation=1.0)
    with pytest.raises(RunError) as stopped:
        train_head(config, dataclasses.replace(data, teacher=broken_teacher), Hooks(save=states.append))
    message = str(stopped.value)
    assert f"epoch {broken_epoch}, step 3 of 5" in message and "distillation nan" in message
    assert ("the state after epoch 1 is kept" if broken_epoch == 2 else "no epoch was finished") in message
    assert "learning_rate (now 0.003)" in message
    if states:
        assert_same_weights(train_head(config, data, state=states[-1]), train_head(config, data), tolerance=1e-6)


def test_tokens_that_are_no_numbers_stop_it_too() -> None:
    data = make_data()
    data.inputs[7, 0, 0] = np.inf
    with pytest.raises(RunError, match="not a finite number"):
        train_head(recipe(), data)


def test_distillation_without_a_teacher_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"distillation = 0\.5 needs a teacher"):
        train_head(recipe(distillation=0.5), make_data())


@pytest.mark.parametrize(
    "changes", [{"batch_size": 1000}, {"batch_size": 80, "epochs": 1}, {"epochs": 10, "batch_size": 80}]
)
def test_few_steps_are_enough_for_a_schedule(changes: dict[str, object]) -> None:
    trained = train_head(recipe(**changes), make_data())
    assert trained.reports[-1].steps == 1


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 100])
def test_the_rate_rises_and_falls_whatever_the_number_of_steps(steps: int) -> None:
    config = recipe(epochs=1)
    optimizer = torch.optim.AdamW([torch.zeros(2, requires_grad=True)], lr=config.learning_rate)
    scheduler = one_cycle(optimizer, config, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    if steps > 2:
        assert max(rates) == pytest.approx(config.learning_rate, rel=0.3) and rates[-1] < 0.3 * max(rates)


def test_mixed_precision_trains_with_losses_in_float32() -> None:
    data = make_data()
    trained = train_head(recipe(amp="bf16", epochs=2), data)
    exact = train_head(recipe(amp="off", epochs=2), data)
    assert trained.reports[0].losses["loss"] == pytest.approx(exact.reports[0].losses["loss"], rel=0.02)
    assert {parameter.dtype for parameter in trained.model.parameters()} == {torch.float32}


def test_unknown_labels_are_learnt_from_the_teacher_alone() -> None:
    data = make_data(missing="unknown", teacher=True)
    trained = train_head(recipe(distillation=1.0, beta=0.0, alpha=0.0, epochs=15), data)
    assert trained.reports[-1].losses["distillation"] < 0.5 * trained.reports[0].losses["distillation"]


class TinyTower(nn.Module):
    """Two blocks over patches, with a batch norm that must keep its statistics."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Conv2d(8, 16, 1)


class TinyBackbone(Backbone):
    """A backbone of this tower."""

    def forward(self, x_BCHW: Tensor, *, tokens: bool = True) -> Features:
        map_BCHW = self.tower.block(self.tower.norm(self.tower.stem(x_BCHW)).relu())
        return Features(map_BCHW.mean(dim=(2, 3)), map_BCHW.flatten(2).transpose(1, 2) if tokens else None)

    def blocks(self) -> list[list[nn.Parameter]]:
        tower = self.tower
        return [[*tower.stem.parameters(), *tower.norm.parameters()], list(tower.block.parameters())]


def make_pixels() -> TrainData:
    """Return pictures whose label is the colour of a patch."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (64, 8, 8, 3)).astype(np.uint8)
    labels = rng.integers(0, 3, 64)
    for image, label in zip(pixels, labels, strict=True):
        image[:4, 4:, label] += 180
    data = make_data()
    targets = type(data.targets).of([[int(label)] for label in labels], num_labels=3)
    return TrainData(inputs=pixels, rows_M=np.arange(64), targets=targets, queries_KQ=data.queries_KQ[:3])


def to_input(pixels_BHWC: Tensor) -> Tensor:
    """Return what the tower takes."""
    return pixels_BHWC.permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("finetune", ["none", 1, "all"])
def test_finetuning_moves_the_blocks_that_were_asked_for(finetune: str | int) -> None:
    backbone, frozen = TinyBackbone(TinyTower()), TinyBackbone(TinyTower())
    unfreeze(backbone, finetune)
    config = recipe(finetune=finetune, epochs=3, backbone_learning_rate=1e-2)
    trained = train_head(config, make_pixels(), tokens_of=PixelTokens(backbone, to_input))
    moved = {name for name, value in backbone.state_dict().items() if not torch.equal(value, frozen.state_dict()[name])}
    block = {"tower.block.weight", "tower.block.bias"}
    stem = {f"tower.{layer}.{kind}" for layer in ("stem", "norm") for kind in ("weight", "bias")}
    assert moved == {"none": set(), "1": block, "all": block | stem}[str(finetune)]
    assert trained.model.tokens_of is not None
    rates = {group["lr"] for group in parameter_groups(trained.model, config)}
    assert rates == ({3e-3} if finetune == "none" else {3e-3, 1e-2})


def test_a_killed_finetuning_ends_as_an_undisturbed_one() -> None:
    config = recipe(finetune=1, backbone_learning_rate=1e-2)
    states: list[bytes] = []

    def tune(hooks: Hooks | None = None, state: bytes | None = None) -> Trained:
        backbone = TinyBackbone(TinyTower())
        unfreeze(backbone, 1)
        return train_head(config, make_pixels(), hooks, tokens_of=PixelTokens(backbone, to_input), state=state)

    whole = tune()
    with pytest.raises(Killed):
        tune(kill_after(2, states, None))
    assert_same_weights(whole, tune(state=states[-1]), tolerance=1e-6)
    assert b"tokens_of.backbone.tower.block" in states[0] and b"tower.stem" not in states[0]


def test_more_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="finetune = 3, and the backbone has 2 blocks"):
        unfreeze(TinyBackbone(TinyTower()), 3)


def test_data_of_other_labels_cannot_enter() -> None:
    data = make_data()
    with pytest.raises(AssertionError, match="one query per label"):
        dataclasses.replace(data, queries_KQ=np.zeros((NUM_LABELS + 1, 16), np.float32))
    with pytest.raises(AssertionError, match="95 inputs, 96 targets"):
        dataclasses.replace(data, inputs=data.inputs[1:])
