"""Fifty steps of training a transformer are those of PyTorch."""

import numpy as np
import pytest

from miniattn import bridges, models, optim
from miniattn.data import pad
from miniattn.training import Trainer

torch = pytest.importorskip("torch")

VOCAB, WIDTH, HEADS, LAYERS, CLASSES, LONGEST = 7, 16, 2, 2, 3, 12


class Reference(torch.nn.Module):
    """The same classifier: learned positions, pre-norm, mean over the real steps."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(VOCAB, WIDTH)
        self.positions = torch.nn.Embedding(LONGEST, WIDTH)
        layer = torch.nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
        )
        norm = torch.nn.LayerNorm(WIDTH)
        self.encoder = torch.nn.TransformerEncoder(layer, LAYERS, norm, enable_nested_tensor=False)
        self.head = torch.nn.Linear(WIDTH, CLASSES)

    def forward(self, ids, lengths):
        steps = torch.arange(ids.shape[1])
        padding = steps >= lengths[:, None]
        x = self.embed(ids) + self.positions(steps)
        x = self.encoder(x, src_key_padding_mask=padding)
        x = x.masked_fill(padding[:, :, None], 0.0).sum(dim=1) / lengths[:, None]
        return self.head(x)

    def take(self, model):
        """Copy the parameters of ours."""
        state = bridges.to_torch(model)
        self.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})


def test_loss_curve_of_a_transformer_is_that_of_pytorch(rng):
    model = models.SequenceClassifier(
        CLASSES, vocab_size=VOCAB, embed_dim=WIDTH, num_heads=HEADS, num_layers=LAYERS,
        positions="learned", max_length=LONGEST, rng=rng,
    )  # fmt: skip
    reference = Reference()
    reference.take(model)

    batches = []

    def collate(examples):
        batches.append(pad(examples))
        return batches[-1]

    rows = [rng.integers(0, VOCAB, rng.integers(1, LONGEST + 1)) for _ in range(64)]
    examples = [(row, int(row.sum() % CLASSES)) for row in rows]
    schedule = optim.cosine(warmup=5, total=50, floor=0.1)
    optimizer = optim.AdamW(model.named_parameters(), lr=3e-3, weight_decay=0.1)
    trainer = Trainer(
        model, optimizer, rng=rng, batch_size=16, collate=collate, clip_norm=1.0,
        schedule=schedule, progress=False,
    )  # fmt: skip
    losses = trainer.fit(examples, steps=50)["loss"].values
    assert losses[-1] < losses[0] - 0.3

    theirs = torch.optim.AdamW(reference.parameters(), lr=3e-3, weight_decay=0.1)
    expected = []
    for step, batch in enumerate(batches):
        ids, lengths = torch.tensor(batch.inputs[0]), torch.tensor(batch.keywords["lengths"])
        loss = torch.nn.functional.cross_entropy(
            reference(ids, lengths), torch.tensor(batch.targets)
        )
        theirs.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        theirs.param_groups[0]["lr"] = 3e-3 * schedule(step)
        theirs.step()
        expected.append(loss.item())
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)
