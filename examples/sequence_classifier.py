"""Handwritten digits as sequences of pixels, with the training loop written out.

The same model and data as ``python -m miniattn demo``, but nothing is left to a Trainer: batch,
padding mask, forward, loss, backward, clipping and update stand below one another. Reaches 97 to
99 % on held-out digits.

    python examples/sequence_classifier.py            # about half a minute on two cores
    python examples/sequence_classifier.py --quick    # a minute's lesson in a second: 2 epochs
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

import miniattn.functional as F
from miniattn import demo, optim, plot
from miniattn.data import batches, pad
from miniattn.models import SequenceClassifier


def accuracy(model: SequenceClassifier, examples: list[demo.Example]) -> float:
    """Return the share of examples whose greatest logit is the right one."""
    batch = pad(examples)
    logits = model(*batch.inputs, **batch.keywords)
    return float((logits.argmax(axis=-1) == batch.targets).mean())


def train(epochs: int, rng: np.random.Generator) -> tuple[SequenceClassifier, list[dict]]:
    """Return the trained model and a record of loss and accuracy for each epoch."""
    digits = demo.load_digits()
    wobbled = demo.Wobbled(digits.train, rng)
    model = SequenceClassifier(
        10, input_dim=3, embed_dim=64, num_heads=4, num_layers=2, ffn_dim=128, rng=rng
    )
    print(model)
    optimizer = optim.AdamW(model.named_parameters(), lr=3e-3)
    steps = epochs * -(-len(wobbled) // 32)
    schedule = optim.cosine(warmup=steps // 10, total=steps)
    history = []

    with tqdm(total=steps, unit="step") as bar:
        for epoch in range(1, epochs + 1):
            losses = []
            for examples in batches(wobbled, rng.permutation(len(wobbled)), batch_size=32):
                # Rows are filled up with zeros; `lengths` says what is real, and becomes the mask.
                (inputs,), targets, keywords = pad(examples)
                logits, ctx = model.forward(inputs, lengths=keywords["lengths"], rng=rng)
                loss, loss_ctx = F.cross_entropy_forward(logits, targets)

                # Now upwards: each line undoes one of the above.
                dlogits = F.cross_entropy_backward(1.0, loss_ctx)
                model.zero_grad()
                model.backward(dlogits, ctx)

                optim.clip_grad_norm(model.parameters(), 1.0)
                optimizer.step(schedule(bar.n))
                losses.append(float(loss))
                bar.update()
            record = {
                "epoch": epoch,
                "loss": float(np.mean(losses)),
                "test_accuracy": accuracy(model, digits.test),
            }
            history.append(record)
            bar.set_postfix(loss=f"{record['loss']:.3f}", accuracy=f"{record['test_accuracy']:.3f}")
    return model, history


def main() -> None:
    """Train, report, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 epochs, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("sequence-classifier"), help="folder")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    model, history = train(2 if args.quick else 30, np.random.default_rng(0))
    print(f"test accuracy: {100 * history[-1]['test_accuracy']:.1f} %")
    plot.history(history).savefig(args.out / "training.png", dpi=150)
    examples = list(demo.one_of_each(demo.load_digits().test, (0, 3, 8)))
    demo.draw_attention(model, examples).savefig(args.out / "attention.png", dpi=150)
    print(f"figures: {args.out}/training.png, {args.out}/attention.png")


if __name__ == "__main__":
    main()
