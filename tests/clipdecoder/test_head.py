"""The head against a plain reference, and by what must not matter to it: order, company and chunks of labels."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from clipdecoder.heads.cost import chunk_size, head_flops, query_bytes
from clipdecoder.heads.group_head import GroupHead, build_head
from clipdecoder.heads.text_query_head import TextQueryHead
from schemas.errors import ModelError
from schemas.training import HeadConfig

SHAPE = HeadConfig(token_width=12, query_width=10, width=32, num_heads=4, feedforward_width=48, dropout=0.3)
GROUPS = SHAPE.model_copy(update={"groups": 4, "num_labels": 10})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, and far slower on cores that others use too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_head(shape: HeadConfig = SHAPE, seed: int = 0) -> TextQueryHead:
    """Return a head with random weights and statistics, in evaluation mode."""
    torch.manual_seed(seed)
    head = TextQueryHead(shape)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    head.fit_statistics(3 + 2 * torch.randn(20, 5, shape.token_width), torch.randn(9, shape.query_width))
    return head.eval()


def make_inputs(num_labels: int = 7, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return tokens of three images and L2-normalised queries."""
    torch.manual_seed(seed)
    return torch.randn(3, 6, SHAPE.token_width), F.normalize(torch.randn(num_labels, SHAPE.query_width), dim=-1)


class PlainHead(nn.Module):
    """The same head from PyTorch's own parts, one image and one label at a time."""

    def __init__(self, head: TextQueryHead) -> None:
        super().__init__()
        self.head = head
        width = head.config.width
        self.attention = nn.MultiheadAttention(width, head.config.num_heads, batch_first=True)
        layer = head.layer
        with torch.no_grad():
            self.attention.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key.weight, layer.value.weight]))
            any_bias = torch.randn(width)  # of the keys: it has no effect
            self.attention.in_proj_bias.copy_(torch.cat([layer.query.bias, any_bias, layer.value.bias]))
            self.attention.out_proj.load_state_dict(layer.out.state_dict())

    def forward(self, x_BTC: Tensor, queries_KC: Tensor) -> Tensor:
        rows = [torch.stack([self.score(x_TC, query_C) for query_C in queries_KC]) for x_TC in x_BTC]
        return torch.stack(rows)

    def score(self, x_TC: Tensor, query_C: Tensor) -> Tensor:
        inputs, layer = self.head.inputs, self.head.layer
        x_TD = F.relu(inputs.token_projection((x_TC - inputs.token_mean_C) * inputs.token_scale_C))
        centred_C = query_C - inputs.query_mean_C
        query_D = inputs.query_projection(centred_C / centred_C.norm() * self.head.config.query_width**0.5)
        start_1D = layer.norm1(query_D + query_D)[None]  # upstream adds the query to itself
        h_1D = layer.norm2(start_1D + self.attention(start_1D, x_TD, x_TD, need_weights=False)[0])
        h_1D = layer.norm3(h_1D + layer.linear2(F.relu(layer.linear1(h_1D))))
        logit: Tensor = self.head.output(h_1D)[0, 0]
        if self.head.residual_scale is not None:
            logit = logit + self.head.residual_scale * F.cosine_similarity(h_1D, start_1D)[0]
        return logit


@pytest.mark.parametrize("residual", [True, False])
def test_the_head_is_the_plain_reference(residual: bool) -> None:
    # In double precision, where a difference is one of meaning and not of rounding.
    head = make_head(SHAPE.model_copy(update={"residual": residual})).double()
    x_BTC, queries_KC = (inputs.double() for inputs in make_inputs())
    with torch.no_grad():
        logits_BK = head(x_BTC, queries_KC)
        plain_BK = PlainHead(head).double().eval()(x_BTC, queries_KC)
    torch.testing.assert_close(logits_BK, plain_BK.float(), rtol=0, atol=2e-6)
    assert logits_BK.shape == (3, 7) and logits_BK.dtype == torch.float32
    assert logits_BK.std(dim=1).min() > 0.01, "queries must steer the head"


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_order_and_company_of_labels_change_no_logit(data: st.DataObject) -> None:
    head = make_head()
    x_BTC, queries_KC = make_inputs()
    asked = data.draw(st.lists(st.integers(0, 6), max_size=10))
    max_bytes = data.draw(st.integers(1, 10 * 3 * query_bytes(SHAPE)))
    with torch.no_grad():
        logits_BK = head(x_BTC, queries_KC)
        torch.testing.assert_close(
            head(x_BTC, queries_KC[asked], max_bytes=max_bytes), logits_BK[:, asked], rtol=0, atol=1e-5
        )


def test_prepared_queries_and_chunks_give_the_same_logits() -> None:
    head = make_head()
    x_BTC, queries_KC = make_inputs(num_labels=50)
    with torch.no_grad():
        prepared = head.prepare(queries_KC)
        assert len(prepared) == 50
        whole_BK = head(x_BTC, queries_KC)
        torch.testing.assert_close(head(x_BTC, prepared), whole_BK, rtol=0, atol=1e-6)
        assert chunk_size(SHAPE, 3, 4 * 3 * query_bytes(SHAPE)) == 4
        chunked_BK = head(x_BTC, prepared, max_bytes=4 * 3 * query_bytes(SHAPE))
    torch.testing.assert_close(chunked_BK, whole_BK, rtol=0, atol=1e-5)


def test_an_image_is_scored_alike_in_any_batch() -> None:
    head = make_head()
    x_BTC, queries_KC = make_inputs()
    with torch.no_grad():
        torch.testing.assert_close(head(x_BTC[1:2], queries_KC), head(x_BTC, queries_KC)[1:2], rtol=0, atol=1e-5)


def test_order_of_tokens_changes_no_logit() -> None:
    head = make_head()
    x_BTC, queries_KC = make_inputs()
    with torch.no_grad():
        torch.testing.assert_close(head(x_BTC.flip(1), queries_KC), head(x_BTC, queries_KC), rtol=0, atol=1e-5)


def test_half_tokens_and_a_bf16_head_stay_near() -> None:
    head = make_head()
    x_BTC, queries_KC = make_inputs()
    with torch.no_grad():
        logits_BK = head(x_BTC, queries_KC)
        torch.testing.assert_close(head(x_BTC.half(), queries_KC), logits_BK, rtol=0, atol=0.01)
        rounded_BK = head.bfloat16()(x_BTC, queries_KC)
    assert rounded_BK.dtype == torch.float32
    torch.testing.assert_close(rounded_BK, logits_BK, rtol=0, atol=0.15)


def test_dropout_is_off_in_evaluation_only() -> None:
    head = make_head()
    x_BTC, queries_KC = make_inputs()
    assert torch.equal(head(x_BTC, queries_KC), head(x_BTC, queries_KC))
    head.train()
    assert not torch.equal(head(x_BTC, queries_KC), head(x_BTC, queries_KC))


def test_every_parameter_gets_a_gradient() -> None:
    for head in (make_head(), build_head(GROUPS)):
        x_BTC, queries_KC = make_inputs(num_labels=10)
        head.fit_statistics(x_BTC, queries_KC)
        logits_BK = head(x_BTC) if isinstance(head, GroupHead) else head(x_BTC, queries_KC)
        logits_BK.square().sum().backward()
        still = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
        assert still == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda head, x, q: head(x[:, :1], q), "head needs patch tokens, got T=1: is the backbone pooling?"),
        (lambda head, x, q: head(x[:, 0], q), "head needs patch tokens, got T=1: is the backbone pooling?"),
        (lambda head, x, q: head(x[:, :, :9], q), "tokens 12 wide, got 9"),
        (lambda head, x, q: head(x, q[:, :9]), "text queries 10 wide, got 9"),
        (lambda head, x, q: head.prepare(q[:, :9]), "text queries 10 wide, got 9"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[TextQueryHead, Tensor, Tensor], Tensor], words: str) -> None:
    with pytest.raises(ModelError) as refused:
        call(make_head(), *make_inputs())
    assert words in str(refused.value)


def test_statistics_bring_any_encoder_to_one_scale() -> None:
    torch.manual_seed(0)
    small, queries_KC = torch.randn(50, 8, 12), F.normalize(torch.randn(9, 10), dim=-1)
    shift_C = torch.randn(12)
    alike = []
    for x_BTC in (small, 500 * small + 1000 * shift_C):
        head = make_head()
        head.fit_statistics(x_BTC, queries_KC)
        with torch.no_grad():
            alike.append(head(x_BTC, queries_KC))
    torch.testing.assert_close(*alike, rtol=0, atol=1e-3)


def test_a_channel_that_never_moves_and_a_single_label_do_no_harm() -> None:
    head = TextQueryHead(SHAPE)
    x_BTC, queries_KC = make_inputs(num_labels=1)
    x_BTC[:, :, 0] = 5.0
    head.fit_statistics(x_BTC, queries_KC)
    logits_BK = head(x_BTC, queries_KC)
    assert torch.isfinite(logits_BK).all()
    assert (head.inputs.query_mean_C == 0).all()
    head.fit_statistics(torch.zeros(3, 6, 12), queries_KC)
    assert torch.isfinite(head(x_BTC, queries_KC)).all()


def test_flops_are_those_of_the_products() -> None:
    shape = HeadConfig(token_width=768, query_width=512, width=768, feedforward_width=2048, residual=False)
    tokens, labels, width = 49, 1000, 768
    paper = 2 * tokens * 768 * width + 4 * tokens * width**2
    paper += labels * (4 * tokens * width + 2 * width**2 + 4 * width * 2048 + 2 * width)
    assert head_flops(shape, tokens, labels) == paper
    assert head_flops(shape.model_copy(update={"residual": True}), tokens, labels) == paper + labels * 2 * width
    grouped = shape.model_copy(update={"groups": 100, "num_labels": labels})
    assert head_flops(grouped, tokens, labels) < 0.2 * paper


def test_a_group_head_is_each_label_read_from_its_groups_query() -> None:
    torch.manual_seed(0)
    head = build_head(GROUPS)
    assert isinstance(head, GroupHead)
    x_BTC, queries_KC = make_inputs(num_labels=10)
    head.fit_statistics(x_BTC, queries_KC)
    nn.init.normal_(head.output_bias_K)
    head.eval()
    with torch.no_grad():
        logits_BK = head(x_BTC)
        x_BTD = head.inputs.project_tokens(x_BTC)
        columns = []
        for label in range(10):  # three labels a group, the last group has one
            members = queries_KC[label // 3 * 3 : label // 3 * 3 + 3]
            prepared = head.layer.prepare(head.inputs.project_queries(members.mean(dim=0, keepdim=True)))
            h_BD = head.layer(head.layer.keys_values(x_BTD), prepared)[:, 0]
            columns.append(h_BD @ head.output_GDM[label // 3, :, label % 3] + head.output_bias_K[label])
    assert logits_BK.shape == (3, 10)
    torch.testing.assert_close(logits_BK, torch.stack(columns, dim=1), rtol=0, atol=2e-6)


def test_a_group_head_knows_no_novel_label_and_says_so() -> None:
    with pytest.raises(ModelError, match="exactly the 10 labels it is made for, got 11: for novel labels train a head"):
        build_head(GROUPS).fit_statistics(*make_inputs(num_labels=11))


@pytest.mark.parametrize("num_labels", [3, 4, 5, 7, 8, 100])
def test_groups_hold_all_labels_whatever_the_numbers(num_labels: int) -> None:
    head = build_head(GROUPS.model_copy(update={"num_labels": num_labels}))
    assert isinstance(head, GroupHead)
    x_BTC, queries_KC = make_inputs(num_labels=num_labels)
    head.fit_statistics(x_BTC, queries_KC)
    assert head(x_BTC).shape == (3, num_labels)
    assert head.num_groups <= 4 and torch.isfinite(head.queries_GC).all()
