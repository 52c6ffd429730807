"""Data parallel training: the same bits for any number of ranks, and one training for all."""

from functools import partial

import numpy as np
import pytest
from test_training import Bag, examples

from miniattn import distributed, models, nn, optim
from miniattn.data import Windows, pad
from miniattn.distributed import _sums
from miniattn.losses import CrossEntropy
from miniattn.training import Callback, EarlyStopping, Trainer

simulate = distributed.simulate


def make(comm=None, *, seed=0, dropout=0.0, **settings):
    """A small trainer; every call makes the same one."""
    model = Bag(6, 2, rng=np.random.default_rng(seed), dropout=dropout)
    optimizer = optim.AdamW(model.named_parameters(), lr=0.02)
    settings = {"batch_size": 8, "progress": False, "comm": comm} | settings
    return Trainer(model, optimizer, rng=np.random.default_rng(seed + 1), **settings)


def state(trainer):
    """Everything that decides how training goes on, as bytes by name."""
    arrays, metadata = trainer._state()
    return {name: array.tobytes() for name, array in arrays.items()} | metadata


def trained(comm, **settings):
    """The state after some steps, of which one is cut short by the end of an epoch."""
    steps = settings.pop("steps", 7)
    trainer = make(comm, **settings)
    trainer.fit(examples(27), valid=examples(9, seed=1), steps=steps, evaluate_every=3)
    return state(trainer)


@pytest.mark.parametrize(
    "settings", [{}, {"dropout": 0.3, "accumulate": 2, "clip_norm": 0.1}, {"pool": 3}], ids=str
)
def test_bits_do_not_depend_on_the_number_of_ranks(settings):
    one = simulate(1).run(partial(trained, pieces=8, **settings))[0]
    for n in (2, 4, 8):
        for of_rank in simulate(n).run(partial(trained, pieces=8, **settings)):
            assert of_rank == one


def test_one_process_alone_does_the_same_but_for_rounding():
    alone = make(accumulate=2, clip_norm=0.1)
    alone.fit(examples(27), steps=7)

    def losses(comm):
        trainer = make(comm, accumulate=2, clip_norm=0.1)
        trainer.fit(examples(27), steps=7)
        return trainer

    for trainer in simulate(3).run(losses):
        for name in ("loss", "lr", "grad_norm"):
            np.testing.assert_allclose(
                trainer.history[name].values, alone.history[name].values, rtol=1e-12
            )
        for own, other in zip(trainer.model.parameters(), alone.model.parameters(), strict=True):
            np.testing.assert_allclose(own.data, other.data, rtol=0, atol=1e-12)


def gpt_losses(comm, steps):
    """A model with tied weights, in training."""
    model = models.GPT(
        7, 8, embed_dim=8, num_heads=2, num_layers=1, rng=np.random.default_rng(3), dtype=np.float64
    )
    optimizer = optim.AdamW(model.named_parameters(), lr=0.01)
    rows = Windows(np.random.default_rng(4).integers(0, 7, 60), 8)
    trainer = Trainer(
        model,
        optimizer,
        rng=np.random.default_rng(5),
        batch_size=4,
        collate=partial(pad, lengths=(None,)),
        progress=False,
        comm=comm,
        pieces=None if comm is None else 4,
    )
    return trainer.fit(rows, steps=steps)["loss"].values


@pytest.mark.slow
def test_a_hundred_steps_of_a_gpt():
    alone = gpt_losses(None, 100)
    one, four = (simulate(n).run(gpt_losses, 100)[0] for n in (1, 4))
    np.testing.assert_array_equal(four, one)
    np.testing.assert_allclose(one, alone, rtol=1e-9)
    assert alone[-1] < alone[0]


def test_gradients_leave_while_backward_goes_on(monkeypatch):
    """All buckets but those of the first layers have left before backward is done."""
    left, leave = [], _sums._Bucket.leave

    def noted(self, comm, number):
        if comm.Get_rank() == 0 and self.journey is None:
            left.append(self._early)
        leave(self, comm, number)

    def heard(self, number, key, *, plain=_sums.GradientSums.heard):
        for bucket in self._buckets:
            bucket._early = True
        plain(self, number, key)
        for bucket in self._buckets:
            bucket._early = False

    monkeypatch.setattr(_sums._Bucket, "_early", False, raising=False)
    monkeypatch.setattr(_sums._Bucket, "leave", noted)
    monkeypatch.setattr(_sums.GradientSums, "heard", heard)
    monkeypatch.setattr(_sums.GradientSums.__init__, "__kwdefaults__", {"bucket": 512})
    simulate(2).run(gpt_losses, 1)
    buckets = len(left)
    assert buckets > 4
    assert not any(left)  # the first step learns what backward does
    left.clear()
    simulate(2).run(gpt_losses, 2)
    assert left == [False] * buckets + [True] * buckets


class Twice(nn.Module):
    """Uses its weight once, and a second time for examples that begin with a 0."""

    def __init__(self):
        self.weight = nn.Parameter(np.full(2, 0.5))
        self.unused = nn.Parameter(np.ones(2))
        self.frozen = nn.Parameter(np.ones(2), trainable=False)

    def forward(self, x, lengths, *, rng=None):
        again = x[:, 0] == 0
        return (1 + again)[:, None] * self.weight.data + 0.0 * x[:, :1], again

    def backward(self, dy, again):
        self.weight.accumulate(dy.sum(axis=0))
        if again.any():
            self.weight.accumulate(dy[again].sum(axis=0))


def test_what_backward_adds_later_than_before_is_not_lost():
    """In some steps, on some ranks, a gradient has left when backward adds to it once more."""
    rows = [(np.array([i % 3 == 0, i]), i % 2) for i in range(48)]

    def train(comm):
        model = Twice()
        trainer = Trainer(
            model,
            optim.SGD(model.parameters(), lr=0.1),
            rng=np.random.default_rng(1),
            batch_size=4,
            progress=False,
            comm=comm,
        )
        trainer.fit(rows, steps=12)
        return model

    alone = train(None)
    for n in (2, 4):
        for model in simulate(n).run(train):
            np.testing.assert_allclose(model.weight.data, alone.weight.data, rtol=1e-12)
            assert model.unused.grad is None
            assert model.frozen.grad is None


def test_a_resume_on_another_number_of_ranks_is_exact(tmp_path):
    settings = {"pieces": 4, "dropout": 0.3, "batch_size": 5}
    whole = simulate(4).run(partial(trained, steps=11, **settings))[0]

    def begun(comm):
        trainer = make(comm, **settings)
        trainer.fit(
            examples(27),
            valid=examples(9, seed=1),
            steps=6,
            evaluate_every=3,
            save_to=tmp_path / "state.npz",
        )

    def finished(comm):
        trainer = make(comm, seed=comm.Get_rank(), **settings)
        if comm.Get_rank() == 0:  # what it has, all begin with
            trainer.load(tmp_path / "state.npz")
        trainer.fit(examples(27), valid=examples(9, seed=1), steps=11, evaluate_every=3)
        return state(trainer)

    simulate(4).run(begun)
    assert simulate(2).run(finished) == [whole] * 2
    assert simulate(1).run(finished) == [whole]


class Watcher(Callback):
    """Counts, and may stop its own rank."""

    def __init__(self, stop_at=None):
        self.stop_at, self.steps = stop_at, 0

    def on_step(self, trainer):
        self.steps += 1
        trainer.write(f"step {self.steps}")
        if self.steps == self.stop_at:
            trainer.stop("enough")


def test_files_and_words_are_left_to_rank_0_and_all_stop_together(tmp_path, capsys):
    def train(comm):
        rank = comm.Get_rank()
        watcher = Watcher(stop_at=3 if rank == 1 else None)
        best = EarlyStopping(5, save_best_to=tmp_path / f"best{rank}.npz")
        trainer = make(comm, callbacks=[watcher, best], progress=True)
        trainer.fit(
            examples(27),
            valid=examples(9),
            steps=9,
            evaluate_every=1,
            save_to=tmp_path / f"state{rank}.npz",
        )
        return trainer.stopped, watcher.steps

    assert simulate(2).run(train) == [("enough", 3)] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best0.npz", "state0.npz"]
    shown = capsys.readouterr()
    assert shown.out.count("step 1") + shown.err.count("step 1\n") == 1


def test_a_loss_that_is_not_finite_on_one_rank_is_an_error_on_all():
    def train(comm):
        trainer = make(comm, batch_size=4)
        before = state(trainer)
        plain = trainer.loss.forward
        fake = type("Loss", (), {name: getattr(trainer.loss, name) for name in ("backward",)})()
        fake.count, fake.forward = trainer.loss.count, plain
        if comm.Get_rank() == 1:
            fake.forward = lambda *args: (np.inf, plain(*args)[1])
        type(fake).__repr__ = lambda self: "Loss"
        trainer.loss = fake
        with pytest.raises(FloatingPointError, match="loss: expected a finite number, got inf"):
            trainer.fit(examples(8), steps=1)
        after = state(trainer)
        return {name for name in before if before[name] != after[name]}

    assert simulate(2).run(train) == [{"trainer"}] * 2  # the place in the data alone


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda r: {"batch_size": 8 + r},
            "batch_size: expected the same .*, got 8 on rank 0 and 9",
        ),
        (
            lambda r: {"clip_norm": 1.0 if r else None},
            "clip_norm: .*None on rank 0 and 1.0 on rank 1",
        ),
        (lambda r: {"accumulate": 1 + r}, "accumulate: expected the same on every rank"),
        (lambda r: {"pieces": 2 + 2 * r}, "pieces: expected the same on every rank"),
        (lambda r: {"callbacks": [Watcher()] * r}, r"callbacks: .*got \[\] on rank 0"),
    ],
)
def test_settings_that_differ_are_named(change, words):
    def train(comm):
        make(comm, **change(comm.Get_rank())).fit(examples(8), steps=1)

    with pytest.raises(ValueError, match=words):
        simulate(2).run(train)


def test_data_and_models_that_differ_are_named():
    def data(comm):
        make(comm).fit(examples(8 + comm.Get_rank()), steps=1)

    def model(comm):
        trainer = make(comm)
        if comm.Get_rank():
            trainer.model.head = nn.Linear(8, 3, dtype=np.float64)
        trainer.fit(examples(8), steps=1)

    with pytest.raises(ValueError, match=r"train: expected the same .* got 8 on rank 0 and 9 on"):
        simulate(2).run(data)
    with pytest.raises(ValueError, match=r"parameter head.weight: .*\(2, 8\) float64 on rank 0"):
        simulate(2).run(model)


def test_wrong_pieces():
    with pytest.raises(ValueError, match="pieces: expected None without comm, got 4"):
        make(pieces=4)
    for pieces in (1, 3, 6):
        words = f"pieces: expected the number of ranks, 2, times a power of two, got {pieces}"
        with pytest.raises(ValueError, match=words):
            simulate(2).run(lambda comm, pieces=pieces: make(comm, pieces=pieces))
    with pytest.raises(TypeError, match="comm: expected an object with Get_rank"):
        make(comm=2)


def test_a_sum_is_a_tree():
    """The order of the docstring's figure; in another one, this sum is another number."""
    parts = [np.array([x]) for x in (1.0, 1e-16, 1e-16, 1e-16, 1e-16, 1e-16)]
    expected = ((1.0 + 1e-16) + (1e-16 + 1e-16)) + (1e-16 + 1e-16)
    assert _sums.tree_sum(parts)[0] == expected
    assert expected != sum([1.0] + 5 * [1e-16])


@pytest.mark.parametrize("weights", [(0.01, 0.02), (0.7, 1.3)])
def test_weights_of_classes_are_what_pieces_weigh(weights):
    """Their sum may be far below 1, and its last bit depends on the order of summation."""

    def train(comm, pieces=4):
        pieces = None if comm is None else pieces
        trainer = make(comm, loss=CrossEntropy(class_weights=weights), pieces=pieces)
        trainer.fit(examples(27), steps=5)
        return trainer.history["loss"].values, trainer.evaluate(examples(9))["loss"]

    alone, evaluated = train(None)
    one, four = (simulate(n).run(train)[0] for n in (1, 4))
    np.testing.assert_array_equal(four[0], one[0])
    np.testing.assert_allclose(one[0], alone, rtol=1e-12)
    assert one[1] == four[1] == pytest.approx(evaluated)
    assert alone[0] == pytest.approx(np.log(2), abs=0.1)
