"""Matrix products of a network on a processor, by oneDNN.

PyTorch multiplies float32 matrices with MKL, which leaves the 512-bit units of AMD's processors idle; oneDNN, which it
brings along and convolves with, uses them. Both sum the same products in float32, in another order.

Shapes: B batch, T tokens, D width, H attention heads, E width of one attention head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# What torch.compile makes of a linear layer: private to PyTorch, so it may go.
_PRODUCT = "_linear_pointwise"
# From here on it is worth it: at 256 bits both take the same time, within a tenth.
_CAPABILITY = "AVX512"
# A call takes some 20 microseconds more. Not a number of rows: a picture's bits would depend on what is beside it.
_LEAST_WEIGHTS = 2**14


def use_onednn(network: nn.Module) -> None:
    """Let a network's linear layers and self-attentions run by oneDNN where that is faster.

    It applies to float32 on a processor, and only while no gradient is recorded: whoever trains the network, or counts
    its operations, meets PyTorch's own layers. Weights and their names stay as they are.
    """
    if torch.backends.cpu.get_cpu_capability() != _CAPABILITY:
        return
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, _PRODUCT):  # type: ignore[no-untyped-call]
        return
    for module in network.modules():
        replacement = _REPLACEMENTS.get(type(module))
        if replacement is not None and _fits(module):
            module.__class__ = replacement


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return _product(input, self.weight, self.bias) if _direct(input) else super().forward(input)


class _SelfAttention(nn.MultiheadAttention):
    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        mask = options.get("attn_mask")
        others = (option for name, option in options.items() if name != "attn_mask")
        # `need_weights` is true by default: it has to be there, and turned off.
        plain = "need_weights" in options and all(option is None or option is False for option in others)
        if not (plain and query is key is value and query.ndim == 3 and _direct(query) and _adds(mask)):
            return super().forward(query, key, value, **options)
        batch, tokens, width = query.shape
        qkv = _product(query, self.in_proj_weight, self.in_proj_bias)
        q_BHTE, k_BHTE, v_BHTE = qkv.view(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        seen_BHTE = F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, attn_mask=mask)
        seen_BTD = seen_BHTE.transpose(1, 2).reshape(batch, tokens, width)
        return _product(seen_BTD, self.out_proj.weight, self.out_proj.bias), None


_REPLACEMENTS: dict[type, type[nn.Module]] = {
    nn.Linear: _Linear,
    nn.MultiheadAttention: _SelfAttention,
}


def _fits(module: nn.Module) -> bool:
    """Whether a module does just what its replacement does, and enough of it to be worth the call."""
    if isinstance(module, nn.MultiheadAttention):
        own = module.in_proj_weight is not None and module.bias_k is None and not module.add_zero_attn
        return own and module.batch_first and module.dropout == 0 and module.in_proj_weight.numel() >= _LEAST_WEIGHTS
    return isinstance(module, nn.Linear) and module.weight.numel() >= _LEAST_WEIGHTS


def _direct(x: Tensor) -> bool:
    """Whether PyTorch would do nothing but multiply: no gradient to come, no conversion of types, no other device."""
    here = x.dtype == torch.float32 and x.device.type == "cpu"
    return here and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def _adds(mask: Tensor | None) -> bool:
    """Whether a mask is one that is added, alike for all heads, as a causal tower has it: true says other things."""
    return mask is None or (mask.ndim == 2 and mask.dtype == torch.float32)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # Its activations are left alone: GELU within the product saved 2 %.
    product: Tensor = getattr(torch.ops.mkldnn, _PRODUCT)(x, weight, bias, "none", [], "")
    return product
