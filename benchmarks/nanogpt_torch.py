"""The GPT of `train_gpt.py` in PyTorch eager, as nanoGPT has it: what miniattn is compared with."""

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        B, T, E = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out_proj(out.transpose(1, 2).reshape(B, T, E))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, vocab_size, block_size, width=128, heads=4, layers=4):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(block_size, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = LayerNorm(width)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)

    def take(self, state):
        """Copy the parameters of miniattn's model."""
        renamed = {}
        for name, array in state.items():
            new = name.replace("blocks.layers", "blocks").replace("blocks.norm", "norm")
            renamed[new.replace(".attn.", ".").replace(".ffn.", ".")] = torch.tensor(array)
        for i in range(len(self.blocks)):
            parts = [renamed.pop(f"blocks.{i}.{part}_proj.weight") for part in "qkv"]
            renamed[f"blocks.{i}.qkv.weight"] = torch.cat(parts)
        self.load_state_dict(renamed)
