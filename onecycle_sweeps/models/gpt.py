"""A small GPT: a decoder-only transformer for language models."""

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onecycle_sweeps.validation import SWITCH, number, require, whole

# The standard deviation of GPT-2's weights.
DEVIATION = 0.02


class TransformerBlock(nn.Module):
    """Causal self-attention and a perceptron of four times the width, each after a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._dropped(self._attention(self.norm_attention(x)))
        return x + self._dropped(self.contract(F.gelu(self.expand(self.norm_mlp(x)))))

    def _attention(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        qkv, dropout = self.qkv(x), self.dropout if self.training else 0.0
        # On a CPU the gradients of torch's attention over short windows take three times as long in bf16 as in fp32.
        in_fp32 = qkv.device.type == "cpu" and qkv.dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False) if in_fp32 else nullcontext():
            heads = (qkv.float() if in_fp32 else qkv).view(count, length, 3, self.heads, width // self.heads)
            q, k, v = heads.permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.project(attended.transpose(1, 2).reshape(count, length, width).to(qkv.dtype))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class GPT(nn.Module):
    """GPT-2's architecture and initialisation (Radford et al. 2019), of any size.

    Tokens int64 (N, T) with T up to `context` -> scores (N, T, vocab_size) for the token that follows at each position.
    `tied` shares the weights of the embedding with the output layer.
    Raises ValueError for a width that the heads do not divide.
    """

    def __init__(
        self,
        vocab_size: int,
        context: int,
        depth: int = 4,
        width: int = 128,
        heads: int = 4,
        dropout: float = 0.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("depth", depth), ("width", width), ("heads", heads)):
            require(name, value, whole(1))
        require("dropout", dropout, number(at_least=0, below=1))
        require("tied", tied, SWITCH)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads={heads}, got {width}")
        self.context = context
        self.tokens, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab_size, bias=False)
        self._initialise(depth)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] > self.context:
            raise ValueError(f"a window must have at most context={self.context} tokens, got {tokens.shape[1]}")
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    @torch.no_grad()
    def _initialise(self, depth: int) -> None:
        """Normal weights; layers that end in a shortcut start smaller, so that their sum does not grow with depth."""
        for name, part in self.named_modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                ends_in_shortcut = name.endswith(("project", "contract"))
                part.weight.normal_(0, DEVIATION / (math.sqrt(2 * depth) if ends_in_shortcut else 1))
            if isinstance(part, nn.Linear) and part.bias is not None:
                part.bias.zero_()
