"""A training step of a small GPT, in miniattn and in PyTorch eager.

The settings are those of nanoGPT on a CPU: 4 layers, 4 heads, width 128, 64 tokens, batches of 12,
AdamW with weight decay on matrices, gradients clipped to 1. All sides start with the same weights
and get the same batches. Each has a process of its own, and they take turns, so that all see the
same machine. A step is forward, loss, backward, clipping and update.

    python benchmarks/train_gpt.py                              # how long a step takes
    python benchmarks/train_gpt.py --text FILE --steps 2000     # and what loss it leads to
"""

import argparse
import functools
import importlib.metadata
import multiprocessing
import statistics
import time
from pathlib import Path

import numpy as np

BLOCK, BATCH, LR, WARMUP = 64, 12, 1e-3, 100
BETAS, DECAY, CLIP = (0.9, 0.99), 0.1, 1.0


class Miniattn:
    def __init__(self, vocab_size, state):
        from miniattn import models, optim

        self.clip = optim.clip_grad_norm
        self.model = models.GPT.preset("nanogpt-cpu", vocab_size)
        self.model.load_state_dict(state)
        self.parameters = self.model.parameters()
        self.optimizer = optim.AdamW(
            self.model.named_parameters(),
            LR,
            betas=BETAS,
            weight_decay=DECAY,
            decay=optim.only_matrices,
        )

    def step(self, ids, targets, factor):
        import miniattn.functional as F

        logits, ctx = self.model.forward(ids)
        loss, loss_ctx = F.cross_entropy_forward(logits, targets)
        self.optimizer.zero_grad()
        self.model.backward(F.cross_entropy_backward(1.0, loss_ctx), ctx)
        self.clip(self.parameters, CLIP)
        self.optimizer.step(factor)
        return float(loss)

    def loss(self, ids, targets):
        import miniattn.functional as F

        return float(F.cross_entropy(self.model(ids), targets))


class PyTorch:
    def __init__(self, vocab_size, state, *, fused=False):
        import torch
        from nanogpt_torch import GPT

        self.torch = torch
        self.model = GPT(vocab_size, BLOCK)
        self.model.take(state)
        self.parameters = list(self.model.parameters())
        matrices = [p for p in self.parameters if p.dim() >= 2]
        others = [p for p in self.parameters if p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": DECAY},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, LR, betas=BETAS, fused=fused)

    def step(self, ids, targets, factor):
        loss = self._loss(ids, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = LR * factor
        self.optimizer.step()
        return loss.item()

    def loss(self, ids, targets):
        with self.torch.no_grad():
            return self._loss(ids, targets).item()

    def _loss(self, ids, targets):
        logits = self.model(self.torch.from_numpy(ids))
        return self.torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), self.torch.from_numpy(targets).flatten()
        )


SIDES = {
    "miniattn": Miniattn,
    "PyTorch": PyTorch,
    "PyTorch, fused AdamW": functools.partial(PyTorch, fused=True),  # not nanoGPT's choice on CPUs
}


def windows(tokens, starts):
    pieces = tokens[starts[:, None] + np.arange(BLOCK + 1)]
    return pieces[:, :-1].copy(), pieces[:, 1:].copy()


def serve(pipe, side, vocab_size, state, train, valid, factors):
    """Train for as many steps as the pipe says, and answer (seconds of each, loss of each).

    Asked for "loss", answer the loss over all of the held-out text; for "stop", nothing more.
    """
    learner = SIDES[side](vocab_size, state)
    rng = np.random.default_rng(0)
    factors = iter(factors)
    while (steps := pipe.recv()) != "stop":
        if steps == "loss":
            every = np.arange(0, len(valid) - BLOCK, BLOCK)
            parts = np.array_split(every, -(-len(every) // 64))
            losses = [learner.loss(*windows(valid, part)) for part in parts]
            pipe.send(np.average(losses, weights=[len(part) for part in parts]))
            continue
        seconds, losses = [], []
        for _ in range(steps):
            ids, targets = windows(train, rng.integers(0, len(train) - BLOCK, BATCH))
            start = time.perf_counter()
            losses.append(learner.step(ids, targets, next(factors)))
            seconds.append(time.perf_counter() - start)
        pipe.send((seconds, losses))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--turn", type=int, default=20, help="steps before the other side's turn")
    parser.add_argument("--text", type=Path, help="text to train on; random tokens by default")
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES))
    args = parser.parse_args()

    from miniattn import models, optim, runtime

    facts = runtime.config() | {"PyTorch": importlib.metadata.version("torch")}
    del facts["compiled kernels"]
    print("; ".join(f"{name} {value}" for name, value in facts.items()))
    rng = np.random.default_rng(1337)
    if args.text:
        text = args.text.read_text(encoding="utf-8")
        alphabet, tokens = np.unique(list(text), return_inverse=True)
        vocab_size = len(alphabet)
    else:
        vocab_size, tokens = 65, rng.integers(0, 65, 100_000)
    cut = len(tokens) * 9 // 10
    state = models.GPT.preset("nanogpt-cpu", vocab_size, rng=rng).state_dict()
    warmup = min(WARMUP, args.steps // 10)
    schedule = optim.cosine(warmup=warmup, total=args.steps, floor=0.1)
    factors = [schedule(step) for step in range(args.steps)]

    spawn, pipes = multiprocessing.get_context("spawn"), {}
    for side in args.sides:
        pipes[side], theirs = spawn.Pipe()
        given = (theirs, side, vocab_size, state, tokens[:cut], tokens[cut:], factors)
        spawn.Process(target=serve, args=given, daemon=True).start()

    def ask(side, question):
        pipes[side].send(question)
        return pipes[side].recv()

    seconds = {side: [] for side in pipes}
    losses = {side: [] for side in pipes}
    for done in range(0, args.steps, args.turn):
        for side in pipes:
            times, values = ask(side, min(args.turn, args.steps - done))
            seconds[side] += times
            losses[side] += values
    for side in pipes:
        # The first turn compiles kernels or fills caches.
        median = statistics.median(seconds[side][args.turn :]) * 1e3
        ratio = median / (statistics.median(seconds["miniattn"][args.turn :]) * 1e3)
        line = f"{side:22s} {median:6.1f} ms a step  {ratio:5.2f}   loss {losses[side][-1]:.4f}"
        if args.text:
            line += f", held-out {ask(side, 'loss'):.4f}"
        print(line)
        pipes[side].send("stop")


if __name__ == "__main__":
    main()
