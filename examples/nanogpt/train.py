"""A loop in the manner of nanoGPT: random blocks of a text, bytes as tokens, gradient accumulation and clipping."""

import pydoc_data.topics

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs, self.outputs = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        batch, length, width = x.shape
        parts = self.inputs(self.before_attention(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.outputs(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.before_mlp(x))


class GPT(nn.Module):
    def __init__(self, context, depth, width, heads):
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        scores = self.head(self.norm(self.blocks(x)))
        return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def train(run, max_iters, context, depth, width, heads, batch, gradient_accumulation_steps, grad_clip):
    text = "\n".join(pydoc_data.topics.topics.values()).encode()
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long().to(run.device)
    split = 9 * len(tokens) // 10

    def get_batch(part, starts):
        blocks = part[starts[:, None] + torch.arange(context + 1, device=run.device)]
        return blocks[:, :-1], blocks[:, 1:]

    def random_batch():
        return get_batch(tokens[:split], torch.randint(split - context, (batch,)).to(run.device))

    @torch.no_grad()
    def held_out_loss():
        held_out = tokens[split:]
        starts = torch.arange(0, len(held_out) - context, context, device=run.device)[:64]
        return model(*get_batch(held_out, starts))

    model = GPT(context, depth, width, heads).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    if state := run.restore():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    accumulate = gradient_accumulation_steps
    for _ in run.steps(optimizer, total_steps=max_iters, accumulate=accumulate):
        loss = model(*random_batch())
        (loss / accumulate).backward()
        run.log(loss)
        if not run.update_due:
            continue
        nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        if run.evaluation_due:
            run.evaluated(loss=held_out_loss())
        run.checkpoint(model=model, optimizer=optimizer)
