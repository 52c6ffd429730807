"""Models whose sequences are shared by ranks: layers, GPT, and its training."""

import numpy as np
import pytest
from samples import normal

from miniattn import checkpoint, distributed, masks, models, nn, optim
from miniattn.data import Windows, pad, stack
from miniattn.training import Trainer

simulate, share, collect = distributed.simulate, distributed.share, distributed.collect
LAYOUT = {"ring": "contiguous", "striped": "striped", "heads": "contiguous"}


def rng(seed=0):
    return np.random.default_rng(seed)


LAYERS = {
    "plain": {},
    "grouped": {"num_kv_heads": 2, "softcap": 2.0},
    "rotary": {"rotary": nn.Rotary()},
    "alibi": {"alibi": True},
    "window": {"window": (3, 0), "sinks": 1},
    "normed and gated": {"qk_norm": "head", "gate": "full", "scale": 0.3},
}


@pytest.mark.parametrize("split", LAYOUT)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_itself(name, split):
    """Outputs, input gradients, and sums over ranks of the parameters' gradients."""
    x, dy = normal(2, 2, 11, 8)
    mask = masks.causal() & masks.padding([11, 7])
    options = {"rng": rng(), "dtype": np.float64, **LAYERS[name]}
    alone = nn.MultiHeadAttention(8, 4, **options)
    y, ctx = alone.forward(x, mask=mask)
    dx = alone.backward(dy, ctx)

    def attend(comm):
        layer = nn.MultiHeadAttention(8, 4, comm=comm, split=split, **options | {"rng": rng()})
        mine = [share(each, comm, axis=1, layout=LAYOUT[split]) for each in (x, dy)]
        own_y, ctx = layer.forward(mine[0], mask=mask)
        parts = own_y, layer.backward(mine[1], ctx)
        whole = [collect(part, comm, axis=1, layout=LAYOUT[split]) for part in parts]
        return whole, [p.grad for p in layer.parameters()]

    found = simulate(2).run(attend)
    for own, other in zip(found[1][0], (y, dx), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-12)
    for n, parameter in enumerate(alone.parameters()):
        total = sum(grads[n] for _, grads in found)
        np.testing.assert_allclose(total, parameter.grad, rtol=0, atol=1e-12)


def test_attention_to_another_sequence():
    x, memory = normal(2, 5, 8), normal(2, 9, 8)
    alone = nn.MultiHeadAttention(8, 2, rng=rng(), dtype=np.float64, rotary=nn.Rotary())
    y = alone(x, memory, mask=masks.padding([9, 4]))

    def attend(comm):
        layer = nn.MultiHeadAttention(
            8, 2, rng=rng(), dtype=np.float64, rotary=nn.Rotary(), comm=comm
        )
        own = layer(*(share(z, comm, axis=1) for z in (x, memory)), mask=masks.padding([9, 4]))
        return collect(own, comm, axis=1)

    np.testing.assert_allclose(simulate(3).run(attend)[0], y, rtol=0, atol=1e-12)


ROWS = Windows(rng(4).integers(0, 7, 60), 11)


def trainer(comm, world, *, split="ring", positions="learned", dropout=0.0, **settings):
    shared = {} if comm is None else {"comm": comm, "split": split}
    model = models.GPT(
        7,
        16,
        embed_dim=8,
        num_heads=4,
        num_kv_heads=2,
        num_layers=2,
        positions=positions,
        dropout=dropout,
        rng=rng(3),
        dtype=np.float64,
        **shared,
    )
    settings = {"batch_size": 4, "collate": stack, "progress": False, "clip_norm": 1.0} | settings
    optimizer = optim.AdamW(model.named_parameters(), lr=0.01)
    return Trainer(model, optimizer, rng=rng(5), comm=world, **settings)


def curves(training, steps=4):
    history = training.fit(ROWS, valid=ROWS, steps=steps, evaluate_every=2)
    return {name: history[name].values for name in history}


@pytest.mark.parametrize(
    ("split", "positions"), [("ring", "alibi"), ("striped", "rotary"), ("heads", "learned")]
)
def test_a_model_trains_on_sequences_that_no_rank_holds(split, positions):
    alone = curves(trainer(None, None, positions=positions))

    def train(comm):
        return curves(trainer(comm, comm, split=split, positions=positions))

    for found in simulate(2).run(train):
        for name, values in alone.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-11)


def test_sequences_and_batches_at_once():
    """Four ranks: two groups, each with half of the batch, of which each rank has half."""
    alone = curves(trainer(None, None))

    def train(world):
        comm = world.Split(world.Get_rank() // 2)
        return curves(trainer(comm, world, split="striped", pieces=4))

    for found in simulate(4).run(train):
        for name, values in alone.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-11)


def test_dropout_of_weights_is_that_of_one_process():
    """Attention alone drops: what is dropped depends on where queries and keys are."""
    x, dy = normal(2, 1, 9, 8)
    options = {"dropout": 0.5, "dtype": np.float64}
    alone = nn.MultiHeadAttention(8, 2, rng=rng(), **options)
    y, ctx = alone.forward(x, rng=rng(9))
    dx = alone.backward(dy, ctx)

    def attend(comm):
        layer = nn.MultiHeadAttention(8, 2, rng=rng(), comm=comm, split="striped", **options)
        mine = [share(each, comm, axis=1, layout="striped") for each in (x, dy)]
        # The seed is rank 0's.
        own, ctx = layer.forward(mine[0], rng=rng(9 + comm.Get_rank()))
        return [
            collect(z, comm, axis=1, layout="striped") for z in (own, layer.backward(mine[1], ctx))
        ]

    for own, other in zip(simulate(3).run(attend)[2], (y, dx), strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-12)


def test_it_trains_with_dropout_and_stays_one_model():
    def train(comm):
        training = trainer(comm, comm, dropout=0.3)
        training.fit(ROWS, steps=3)
        return [p.data.tobytes() for p in training.model.parameters()]

    first, second = simulate(2).run(train)
    assert first == second


def test_a_checkpoint_says_nothing_of_ranks(tmp_path):
    def save(comm):
        model = trainer(comm, comm).model
        if comm.Get_rank() == 0:
            checkpoint.save(tmp_path / "model.npz", model)
        return model(share(np.arange(6)[None], comm, axis=1))

    parts = simulate(2).run(save)
    model = models.load(tmp_path / "model.npz")
    found = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(found, model(np.arange(6)[None]), rtol=0, atol=1e-12)


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_before_backward():
    def train(comm):
        training = trainer(comm, comm)
        if comm.Get_rank() == 1:
            plain = training.loss

            class Broken:
                def __getattr__(self, name):
                    return getattr(plain, name)

                def __repr__(self):
                    return repr(plain)

                def forward(self, *args):
                    return float("nan"), plain.forward(*args)[1]

            training.loss = Broken()
        training.fit(ROWS, steps=1)

    with pytest.raises(FloatingPointError, match="loss: expected a finite number, got nan"):
        simulate(2).run(train)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda comm: trainer(comm, None),
            ValueError,
            "comm: expected a communicator for a model whose ranks share each sequence, got None",
        ),
        (
            lambda comm: trainer(comm, comm, collate=pad).fit(ROWS, steps=1),
            ValueError,
            r"collate: expected no keywords .* got \['lengths'\]",
        ),
        (
            lambda comm: nn.MultiHeadAttention(8, 2, comm=comm, split="spiral"),
            ValueError,
            "split: expected one of",
        ),
        (
            lambda comm: nn.TalkingHeadsAttention(8, 2, comm=comm),
            ValueError,
            "comm: expected None for TalkingHeadsAttention",
        ),
        (
            lambda comm: nn.MultiHeadAttention(8, 2, comm=comm)(
                np.zeros((1, 2, 8), np.float32), bias=np.zeros((2, 2), np.float32)
            ),
            ValueError,
            "bias: expected None for a layer with comm, got a ndarray",
        ),
        (
            lambda comm: trainer(comm, comm).model.generate([1, 2], 2),
            ValueError,
            "cache: expected None for a layer with comm, got a KVCache",
        ),
        (
            lambda comm: trainer(comm, comm).model(np.zeros((1, 9), int)),
            ValueError,
            "ids: expected at most block_size = 16 tokens, got 18",
        ),
        (
            lambda comm: nn.MultiHeadAttention.weights(
                nn.MultiHeadAttention(8, 2, comm=comm, dtype=np.float64).forward(
                    np.zeros((1, 2, 8))
                )[1]
            ),
            ValueError,
            "ctx: expected that of a layer without comm",
        ),
    ],
)
def test_wrong_calls(call, error, words):
    with pytest.raises(error, match=words):
        simulate(2).run(call)
