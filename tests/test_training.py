"""The trainer: what a step is, what is measured, and that a resume is exact."""

import io
import os
import re
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from miniattn import checkpoint, masks, models, nn, optim
from miniattn.checkpoint import CheckpointError
from miniattn.data import Windows, pad, stack
from miniattn.losses import MSE, CrossEntropy
from miniattn.training import Callback, EarlyStopping, History, Trainer
from miniattn.training._progress import Bar


class Bag(nn.Module):
    """Classifies a bag of tokens: mean of embeddings, dropout, linear."""

    def __init__(self, vocab, classes, *, rng, dropout=0.0, dtype=np.float64):
        self.embed = nn.Embedding(vocab, 8, rng=rng, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, classes, rng=rng, dtype=dtype)

    def forward(self, ids, lengths, *, rng=None):
        real = (np.arange(ids.shape[1]) < lengths[:, None]) / np.maximum(lengths, 1)[:, None]
        real = real.astype(self.embed.weight.dtype)
        x, embed = self.embed.forward(ids)
        x, dropout = self.dropout.forward((real[:, :, None] * x).sum(axis=1), rng=rng)
        y, head = self.head.forward(x)
        return y, (real, embed, dropout, head)

    def backward(self, dy, ctx):
        real, embed, dropout, head = ctx
        dx = self.dropout.backward(self.head.backward(dy, head), dropout)
        self.embed.backward(real[:, :, None] * dx[:, None, :], embed)


class Bigram(nn.Module):
    """Predicts the next token from the last: the shape of a GPT, which takes no lengths."""

    def __init__(self, vocab, *, rng):
        self.table = nn.Embedding(vocab, vocab, rng=rng, dtype=np.float64)

    def forward(self, ids, *, rng=None):
        return self.table.forward(ids)

    def backward(self, dy, ctx):
        self.table.backward(dy, ctx)


def examples(count, *, seed=0, vocab=6):
    """Sequences of 1 to 9 tokens; the class says whether most of them are large."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, vocab, rng.integers(1, 10)) for _ in range(count)]
    return [(row, int(np.mean(row >= vocab // 2) > 0.5)) for row in rows]


def make(*, seed=0, kind=np.random.PCG64, **settings):
    rng = np.random.Generator(kind(seed))
    model = Bag(6, 2, rng=rng, dropout=settings.pop("dropout", 0.0))
    optimizer = optim.AdamW(model.named_parameters(), lr=settings.pop("lr", 0.02))
    settings = {"batch_size": 8, "progress": False} | settings
    return Trainer(model, optimizer, rng=rng, **settings)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------------ it trains


def test_it_learns_sequences_of_different_lengths():
    trainer = make(dropout=0.1, pool=4, clip_norm=1.0)
    history = trainer.fit(examples(256), valid=examples(64, seed=1), epochs=10)
    assert history["valid_accuracy"].values[-1] >= 0.95
    assert history["loss"].values[-10:].mean() < history["loss"].values[:10].mean() / 2
    assert trainer.step == 10 * 32
    assert trainer.epoch == 10
    assert trainer.stopped == ""


def test_it_learns_the_next_token_without_lengths(rng):
    tokens = np.tile([3, 1, 4, 1, 5], 40)
    model = Bigram(6, rng=rng)
    optimizer = optim.SGD(model.parameters(), lr=5.0)
    trainer = Trainer(model, optimizer, rng=rng, collate=stack, batch_size=4, progress=False)
    trainer.fit(Windows(tokens, 8), steps=100)
    result = trainer.evaluate(Windows(tokens, 8, stride=8))
    assert result["accuracy"] == pytest.approx(0.8, abs=0.01)  # 1 is followed by 4 or 5
    assert result["loss"] == pytest.approx(0.4 * np.log(2), abs=0.02)


def test_it_fits_numbers(rng):
    data = [(row, [float(row.mean())]) for row, _ in examples(128)]
    model = Bag(6, 1, rng=rng)
    optimizer = optim.Adam(model.parameters(), lr=0.03)
    trainer = Trainer(model, optimizer, loss=MSE(), rng=rng, progress=False)
    trainer.fit(data, epochs=60)
    assert trainer.evaluate(data) == {"loss": pytest.approx(0.0, abs=1e-2)}


def test_loss_curve_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    steps, lr = 50, 0.05
    schedule = optim.cosine(warmup=5, total=steps, floor=0.1)
    trainer = make(lr=lr, clip_norm=0.3, schedule=schedule)
    model = trainer.model
    embed = torch.nn.Parameter(torch.tensor(model.embed.weight.data))
    weight = torch.nn.Parameter(torch.tensor(model.head.weight.data))
    bias = torch.nn.Parameter(torch.tensor(model.head.bias.data))
    reference = torch.optim.AdamW([embed, weight, bias], lr=lr)

    seen = []
    trainer.collate = lambda some: seen.append(some) or pad(some)
    history = trainer.fit(examples(64), steps=steps)
    for step, some in enumerate(seen):
        x = torch.stack([embed[torch.tensor(row)].mean(dim=0) for row, _ in some])
        targets = torch.tensor([y for _, y in some])
        loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, targets)
        reference.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([embed, weight, bias], 0.3)
        reference.param_groups[0]["lr"] = lr * schedule(step)
        reference.step()
        assert history["loss"].values[step] == pytest.approx(loss.item(), rel=1e-5)
        assert history["grad_norm"].values[step] == pytest.approx(norm.item(), rel=1e-5)
        assert history["lr"].values[step] == pytest.approx(lr * schedule(step))


# ------------------------------------------------------------------------------- what a step is


def test_accumulated_batches_are_one_large_batch():
    """Also where the batches have different numbers of targets that count."""
    rng = np.random.default_rng(0)
    data = []
    for _ in range(24):
        row = rng.integers(0, 6, rng.integers(2, 9))
        data.append((row, np.where(rng.random(len(row)) < 0.5, -100, (row + 1) % 6)))

    def train(**settings):
        rng = np.random.default_rng(1)
        model = Bigram(6, rng=rng)
        optimizer = optim.SGD(model.parameters(), lr=1.0)

        def collate(some):
            return pad(some, lengths=(None,))

        trainer = Trainer(model, optimizer, rng=rng, collate=collate, progress=False, **settings)
        return trainer.fit(data, epochs=3)["loss"].values, model.state_dict()["table.weight"]

    losses, weight = train(batch_size=12)
    for settings in ({"batch_size": 3, "accumulate": 4}, {"batch_size": 6, "accumulate": 2}):
        accumulated_losses, accumulated = train(**settings)
        np.testing.assert_allclose(accumulated_losses, losses, rtol=1e-12)
        np.testing.assert_allclose(accumulated, weight, rtol=1e-10, atol=1e-13)


def test_every_epoch_sees_every_example_once_in_another_order():
    seen = []
    trainer = make(accumulate=2, pool=2, batch_size=3)
    trainer.collate = lambda some: seen.extend(id(row) for row, _ in some) or pad(some)
    data = examples(20)
    trainer.fit(data, epochs=3)
    epochs = [seen[at : at + 20] for at in (0, 20, 40)]
    assert all(sorted(epoch) == sorted(id(row) for row, _ in data) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert trainer.step == 3 * 4


def test_clipping_bounds_the_gradient(rng):
    class Norms(Callback):
        def on_step(self, trainer):
            grads = [p.grad.ravel() for p in trainer.model.parameters()]
            norms.append(np.linalg.norm(np.concatenate(grads)))

    norms = []
    trainer = make(clip_norm=0.01, callbacks=[Norms()])
    history = trainer.fit(examples(64), epochs=1)
    assert history["grad_norm"].values.min() > 0.01
    np.testing.assert_allclose(norms, 0.01, rtol=1e-6)


def test_frozen_parameters_stay():
    trainer = make()
    trainer.model.embed.freeze()
    before = trainer.model.state_dict()
    trainer.fit(examples(32), epochs=1)
    after = trainer.model.state_dict()
    np.testing.assert_array_equal(after["embed.weight"], before["embed.weight"])
    assert not np.array_equal(after["head.weight"], before["head.weight"])


def test_a_loss_that_is_not_finite_stops_before_the_update():
    trainer = make()
    trainer.model.head.weight.data[:] = np.inf
    before = trainer.model.state_dict()
    expected = pytest.raises(FloatingPointError, match="loss: expected a finite number")
    with expected, np.errstate(invalid="ignore"):
        trainer.fit(examples(32), epochs=1)
    assert same(trainer.model.state_dict(), before)
    assert trainer.step == 0


class Infinite(Bag):
    """A Bag whose loss stays finite while the gradient of ``head.bias`` turns ``wrong``."""

    wrong = np.inf
    calls = 0

    def backward(self, dy, ctx):
        super().backward(dy, ctx)
        self.calls += 1
        if self.calls > 3:
            self.head.bias.grad = self.head.bias.grad * self.wrong


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"clip_norm": 1.0}])
@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("named", [True, False])
def test_a_gradient_that_is_not_finite_stops_before_the_update(settings, wrong, named, tmp_path):
    rng = np.random.default_rng(0)
    model = Infinite(6, 2, rng=rng)
    model.wrong = wrong
    optimizer = optim.AdamW(model.named_parameters() if named else model.parameters(), lr=0.01)
    trainer = Trainer(model, optimizer, rng=rng, batch_size=4, progress=False, **settings)
    done = 3 // settings.get("accumulate", 1)
    trainer.fit(examples(40), steps=done, save_to=tmp_path / "run")
    before, state = model.state_dict(), optimizer.state_dict()
    words = r"grad: expected finite gradients, got (inf|nan) in 'head.bias'; nothing was updated"
    with pytest.raises(FloatingPointError, match=rf"{words} \(in step {done}\)"):
        trainer.fit(examples(40), steps=10, save_to=tmp_path / "run", save_every=1)
    assert same(model.state_dict(), before)
    assert same(optimizer.state_dict(), state)
    assert trainer.step == done
    assert len(trainer.history["loss"].values) == done
    saved = checkpoint.load(tmp_path / "run")
    assert same(saved.part("model"), before)


def test_a_gradient_of_lora_that_is_not_finite_is_named():
    trainer = make()
    (wrapper,) = nn.add_lora(trainer.model, 1, targets="head")
    trainer.optimizer = optim.AdamW(trainer.model.named_parameters(), lr=0.01)
    wrapper.down.weight.data[...] = 1e200
    wrapper.alpha = 1e200
    before = trainer.model.state_dict()
    with (
        pytest.raises(FloatingPointError, match=r"in 'head\.up\.weight'"),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        trainer.fit(examples(32), steps=1)
    assert same(trainer.model.state_dict(), before)


# ---------------------------------------------------------------------------------- what is seen


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_evaluation_is_the_mean_over_all_targets(batch_size):
    trainer = make(dropout=0.5)
    data = examples(37)
    batch = pad(data)
    logits = trainer.model(*batch.inputs, **batch.keywords)
    state = trainer.rng.bit_generator.state
    result = trainer.evaluate(data, batch_size=batch_size)
    assert result["loss"] == pytest.approx(CrossEntropy().forward(logits, batch.targets)[0])
    assert result["accuracy"] == pytest.approx((logits.argmax(axis=1) == batch.targets).mean())
    assert trainer.rng.bit_generator.state == state


def test_history():
    trainer = make(schedule=optim.linear(2, 12), lr=0.5)
    history = trainer.fit(examples(32), valid=examples(8), steps=12, evaluate_every=5)
    assert list(history) == ["loss", "lr", "valid_loss", "valid_accuracy"]
    np.testing.assert_array_equal(history["loss"].steps, np.arange(1, 13))
    np.testing.assert_allclose(
        history["lr"].values, [0.5 * optim.linear(2, 12)(step) for step in range(12)]
    )
    np.testing.assert_array_equal(history["valid_loss"].steps, [5, 10])
    records = history.records()
    assert [record["step"] for record in records] == list(range(1, 13))
    assert [i for i, record in enumerate(records, 1) if "valid_loss" in record] == [5, 10]
    assert "loss" in history
    with pytest.raises(KeyError, match="expected one of"):
        history["accuracy"]
    twin = History()
    twin.load_state_dict(history.state_dict())
    assert twin.records() == records
    assert repr(history).startswith("History(12 steps, loss ")


def test_callbacks_are_called():
    class Count(Callback):
        def __init__(self):
            self.events = []

        def on_step(self, trainer):
            self.events.append(("step", trainer.step))

        def on_evaluation(self, trainer, result):
            self.events.append(("evaluation", sorted(result)))

        def on_epoch(self, trainer):
            self.events.append(("epoch", trainer.epoch))

    count = Count()
    make(callbacks=[count]).fit(examples(16), valid=examples(4), epochs=2)
    evaluation = ("evaluation", ["accuracy", "loss"])
    first = [("step", 1), ("step", 2), evaluation, ("epoch", 1)]
    assert count.events == [*first, ("step", 3), ("step", 4), evaluation, ("epoch", 2)]


def test_progress_bar_shows_loss_and_speed(capsys):
    class Say(Callback):
        def on_epoch(self, trainer):
            trainer.write("an epoch")

    make(progress=True, callbacks=[Say()]).fit(examples(64), valid=examples(8), epochs=1)
    out, err = capsys.readouterr()
    assert out == "an epoch\n"
    assert re.search(r"8/8 .*loss 0\.\d+, [\d,]+ tokens/s, valid loss 0\.\d+", err), err
    make().fit(examples(64), epochs=1)
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------------------------- it stops


class Scripted(Callback):
    """Replaces what evaluations measure, and marks the parameters by the step."""

    def __init__(self, losses):
        self.losses = losses

    def on_evaluation(self, trainer, result):
        result["loss"] = self.losses[trainer.epoch - 1]
        trainer.model.head.bias.data[:] = trainer.epoch


@pytest.mark.parametrize(
    ("settings", "losses", "stops_in", "best_in"),
    [
        ({"patience": 2}, [5, 4, 4.5, 3, 3.5, 3.2, 1], 6, 4),
        ({"patience": 1}, [5, 5, 1], 2, 1),
        ({"patience": 2, "min_delta": 1.0}, [5, 4.5, 4.1, 1], 3, 1),
        ({"patience": 1, "larger_is_better": True}, [1, 2, 1.5, 9], 3, 2),
        ({"patience": 9}, [5, 6, 7], 3, 1),
    ],
)
@pytest.mark.parametrize("restore_best", [True, False])
def test_early_stopping(settings, losses, stops_in, best_in, restore_best):
    stopping = EarlyStopping(restore_best=restore_best, **settings)
    trainer = make(callbacks=[Scripted(losses), stopping], batch_size=16)
    trainer.fit(examples(16), valid=examples(4), epochs=len(losses))
    assert trainer.epoch == stops_in
    assert stopping.best == losses[best_in - 1]
    ended_here = stops_in < len(losses)
    assert bool(trainer.stopped) == ended_here
    assert trainer.model.head.bias.data[0] == (best_in if restore_best else stops_in)


def test_early_stopping_of_a_metric_that_is_not_there():
    trainer = make(callbacks=[EarlyStopping(1, metric="f1")])
    with pytest.raises(ValueError, match="metric: expected one of"):
        trainer.fit(examples(8), valid=examples(4), epochs=1)


class Interrupt(Callback):
    def __init__(self, at, times=1):
        self.at, self.times = at, times

    def on_step(self, trainer):
        if trainer.step == self.at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


@pytest.fixture
def sigint():
    """Python's own handling of Ctrl-C: a shell that starts tests in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_finishes_the_step_saves_and_returns(tmp_path, sigint):
    path = tmp_path / "run.safetensors"
    trainer = make(dropout=0.2, callbacks=[Interrupt(5)])
    history = trainer.fit(examples(32), steps=20, save_to=path)
    assert trainer.step == 5
    assert trainer.stopped == "interrupted"
    assert len(history["loss"].values) == 5
    assert signal.getsignal(signal.SIGINT) is sigint

    whole = make(dropout=0.2)
    whole.fit(examples(32), steps=20)
    resumed = make(dropout=0.2, seed=9, callbacks=[Callback()])
    resumed.load(path)
    resumed.fit(examples(32), steps=20)
    assert same(resumed.model.state_dict(), whole.model.state_dict())


def test_a_second_ctrl_c_acts_at_once(sigint):
    with pytest.raises(KeyboardInterrupt):
        make(callbacks=[Interrupt(5, times=2)]).fit(examples(32), steps=20)
    assert signal.getsignal(signal.SIGINT) is sigint


def test_where_ctrl_c_is_ignored_it_stays_so(sigint):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = make(callbacks=[Interrupt(2)])
    trainer.fit(examples(32), steps=3)
    assert trainer.step == 3
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.skipif(sys.platform != "linux", reason="a handler is set through the C library")
def test_a_handler_of_a_program_around_python_is_left_alone(python):
    code = """
import ctypes, importlib, signal, sys
calls = []
handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(calls.append)
library = ctypes.CDLL(None)
library.signal.restype = ctypes.c_void_p
library.signal(signal.SIGINT, handler)
del sys.modules["_signal"]
importlib.import_module("_signal")  # looks at the handlers that are there, as when Python starts
assert signal.getsignal(signal.SIGINT) is None
from test_training import examples, make
trainer = make()
trainer.fit(examples(32), steps=3)
signal.raise_signal(signal.SIGINT)
print(trainer.step, calls == [signal.SIGINT])
"""
    assert python(code, PYTHONPATH=str(Path(__file__).parent)).strip() == "3 True"


def test_it_trains_in_a_thread_too():
    trainer = make()
    thread = threading.Thread(target=trainer.fit, args=(examples(32),), kwargs={"steps": 3})
    thread.start()
    thread.join()
    assert trainer.step == 3


# ----------------------------------------------------------------------------------- it goes on

SETTINGS = {"dropout": 0.3, "pool": 3, "accumulate": 2, "batch_size": 4, "clip_norm": 0.5}
KINDS = [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64, np.random.PCG64DXSM]


def resumable(seed=0, kind=np.random.PCG64, **settings):
    schedule = optim.cosine(3, 24)
    stopping = EarlyStopping(50, restore_best=True)
    return make(
        seed=seed, kind=kind, schedule=schedule, callbacks=[stopping], **SETTINGS, **settings
    )


def run(trainer, steps, path=None):
    trainer.fit(
        examples(30), valid=examples(9, seed=1), steps=steps, evaluate_every=5, save_to=path,
        save_every=10_000,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("half", [1, 4, 9, 12])  # an epoch is 4 steps
def test_a_resume_is_exact(tmp_path, kind, half):
    whole = resumable(kind=kind)
    run(whole, 24, tmp_path / "whole")
    run(resumable(kind=kind), half, tmp_path / "half")
    second = resumable(seed=5, kind=kind)  # other weights, other random numbers
    second.load(tmp_path / "half")
    assert second.step == half
    run(second, 24, tmp_path / "second")
    assert same(second.model.state_dict(), whole.model.state_dict())
    assert (tmp_path / "second").read_bytes() == (tmp_path / "whole").read_bytes()


def test_two_halves_in_one_process_are_a_whole():
    whole, halves = resumable(), resumable()
    run(whole, 24)
    for steps in (5, 5, 11, 24):
        run(halves, steps)
    assert same(halves.model.state_dict(), whole.model.state_dict())
    assert halves.history.records() == whole.history.records()


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_training import resumable, run
trainer = resumable()
if {start!r}:
    trainer.load({start!r})
run(trainer, {steps}, {end!r})
"""


def test_a_resume_in_a_new_process_is_exact(python, tmp_path):
    tests = os.path.dirname(__file__)
    for start, steps, end in (("", 24, "whole"), ("", 11, "half"), ("half", 24, "second")):
        python(SCRIPT.format(tests=tests, start=start, steps=steps, end=end))
    assert (tmp_path / "second").read_bytes() == (tmp_path / "whole").read_bytes()


def test_epochs_count_what_was_done_before(tmp_path):
    first = make()
    first.fit(examples(30), steps=6, save_to=tmp_path / "run")  # an epoch and a half
    second = make()
    second.load(tmp_path / "run")
    for epochs in (2, 3, 3, 1):
        second.fit(examples(30), epochs=epochs)
    assert (second.step, second.epoch) == (12, 3)


def test_other_data_begin_a_new_epoch():
    trainer = make()
    trainer.fit(examples(30), steps=2)
    seen = []
    trainer.collate = lambda some: seen.extend(some) or pad(some)
    trainer.fit(examples(20), epochs=1)
    assert len(seen) == 20
    assert trainer.epoch == 1


def test_the_parts_of_a_file(tmp_path):
    trainer = make()
    trainer.fit(examples(30), steps=3, save_to=tmp_path / "run")
    saved = checkpoint.load(tmp_path / "run")
    assert same(saved.part("model"), trainer.model.state_dict())
    assert same(saved.part("optimizer"), trainer.optimizer.state_dict())
    other = make(seed=3).model
    other.load_state_dict(saved.part("model"))
    assert same(other.state_dict(), trainer.model.state_dict())


def other_width(trainer):
    trainer.model = Bag(7, 2, rng=np.random.default_rng(0))


def other_optimizer(trainer):
    trainer.optimizer = optim.SGD(trainer.model.named_parameters(), lr=0.1, momentum=0.9)


def other_generator(trainer):
    trainer.rng = np.random.Generator(np.random.MT19937(0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_width, "vocab: saved as 6, the model has 7"),
        (other_optimizer, "optimizer: state: expected the state of SGD"),
        (other_generator, "MT19937"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(tmp_path, change, words):
    saved = resumable()
    run(saved, 7, tmp_path / "run")
    trainer = resumable(seed=4)
    change(trainer)
    trainer.fit(examples(30), valid=examples(4), steps=5)
    before = trainer._state()
    with pytest.raises(CheckpointError, match=re.escape(words)) as error:
        trainer.load(tmp_path / "run")
    assert str(tmp_path / "run") in str(error.value)
    after = trainer._state()
    assert same(after.arrays, before.arrays)
    assert after.metadata == before.metadata


def rewritten(path, to, **changes):
    """A file of a trainer whose metadata say something else; its digest is right."""
    file = checkpoint.read(path, verify=True, dtype=None)
    trainer = file.metadata["trainer"] | changes
    trainer = {name: value for name, value in trainer.items() if value is not ...}
    checkpoint.save(to, file.arrays, metadata={"trainer": trainer}, architecture=file.architecture)


WRONG_METADATA = {
    "step of text": ({"step": "abc"}, "step: expected an int, got 'abc'"),
    "step below 0": ({"step": -1}, "step: expected an int >= 0, got -1"),
    "half a step": ({"step": 1.5}, "step: expected an int, got 1.5"),
    "no step": ({"step": ...}, "missing: ['step']"),
    "epoch of nothing": ({"epoch": None}, "epoch: expected an int, got None"),
    "at beyond": ({"at": 31}, "at: expected at most 30 examples, got 31"),
    "examples of text": ({"examples": "30"}, "examples: expected an int"),
    "rng of text": ({"rng": "abc"}, "rng: expected a state of"),
    "rng of another kind": ({"rng": {"bit_generator": "MT19937"}}, "rng: expected a state of"),
    "half an rng": ({"rng": {"bit_generator": "PCG64"}}, "rng: expected a state of"),
    "drawn from text": ({"drawn_from": "abc"}, "drawn_from: expected a state of"),
    "callbacks of text": ({"callbacks": "abc"}, "callbacks: expected their keys"),
}


def changes_nothing(trainer, path, kind, words):
    before, callbacks = trainer._state(), [dict(vars(c)) for c in trainer.callbacks]
    with pytest.raises(kind, match=words and re.escape(words)):
        trainer.load(path)
    after = trainer._state()
    assert same(after.arrays, before.arrays)
    assert after.metadata == before.metadata
    for callback, old in zip(trainer.callbacks, callbacks, strict=True):
        assert callback.best == old["best"]


@pytest.mark.parametrize("name", WRONG_METADATA)
def test_metadata_that_make_no_sense_change_nothing(name, tmp_path):
    changes, words = WRONG_METADATA[name]
    run(resumable(), 7, tmp_path / "run")
    rewritten(tmp_path / "run", tmp_path / "same")
    rewritten(tmp_path / "run", tmp_path / "wrong", **changes)
    trainer = resumable(seed=4)
    run(trainer, 3)
    changes_nothing(trainer, tmp_path / "wrong", CheckpointError, words)
    trainer.load(tmp_path / "same")
    assert trainer.step == 7


class Fails(EarlyStopping):
    """Loads once, then raises, as if the memory were at its end."""

    def __init__(self, error):
        super().__init__(50)
        self.error = error

    def key(self):
        return "EarlyStopping(least loss)"

    def load_state_dict(self, state):
        error, self.error = self.error, None
        super().load_state_dict(state)
        if error is not None:
            raise error


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), ZeroDivisionError()])
def test_a_load_that_fails_half_way_changes_nothing(error, tmp_path):
    run(resumable(), 7, tmp_path / "run")
    trainer = resumable(seed=4)
    trainer.callbacks = (Fails(error),)
    run(trainer, 6)
    changes_nothing(trainer, tmp_path / "run", type(error), None)


def test_a_load_without_memory_for_the_optimiser_changes_nothing(tmp_path, monkeypatch):
    run(resumable(), 7, tmp_path / "run")
    trainer = resumable(seed=4)
    run(trainer, 6)
    load = trainer.optimizer.load_state_dict

    def no_memory(state):
        monkeypatch.setattr(trainer.optimizer, "load_state_dict", load)
        raise MemoryError

    monkeypatch.setattr(trainer.optimizer, "load_state_dict", no_memory)
    changes_nothing(trainer, tmp_path / "run", MemoryError, None)


# ---------------------------------------------------------------- callbacks, and what they remember


class Count(Callback):
    def __init__(self):
        self.count = 0

    def on_step(self, trainer):
        self.count += 1

    def state_dict(self):
        return {"count": np.array(self.count)}

    def load_state_dict(self, state):
        self.count = int(state["count"])


def with_callbacks(*callbacks, seed=0):
    return make(seed=seed, callbacks=callbacks, dropout=0.1)


def fit(trainer, epochs, path=None):
    trainer.fit(examples(30), valid=examples(9, seed=1), epochs=epochs, save_to=path)
    return trainer


def test_callbacks_are_found_by_their_keys_in_any_order(tmp_path):
    loss, most = EarlyStopping(50), EarlyStopping(50, metric="accuracy", larger_is_better=True)
    fit(with_callbacks(Callback(), loss, Count(), most), 3, tmp_path / "run")
    other = [
        EarlyStopping(50, metric="accuracy", larger_is_better=True),
        Count(),
        EarlyStopping(50),
    ]
    trainer = with_callbacks(*other, seed=1)
    trainer.load(tmp_path / "run")  # no warning: one that remembers nothing is not missed
    assert (other[0].best, other[1].count, other[2].best) == (most.best, 12, loss.best)


def test_a_callback_less_or_more_is_said_and_the_rest_is_loaded(tmp_path):
    saved = fit(with_callbacks(EarlyStopping(50), Count()), 2, tmp_path / "run")
    count = Count()
    trainer = with_callbacks(count, seed=1)
    words = (
        r"saved with EarlyStopping\(least loss\), Count, the trainer has Count: what EarlyStopping"
    )
    with pytest.warns(UserWarning, match=words + r"\(least loss\) remembered is left out$"):
        trainer.load(tmp_path / "run")
    assert (trainer.step, count.count) == (8, 8)
    assert same(trainer.model.state_dict(), saved.model.state_dict())

    stopping = EarlyStopping(50, metric="accuracy")
    trainer = with_callbacks(stopping, EarlyStopping(50), Count(), seed=1)
    words = r"EarlyStopping\(least accuracy\) was not there, and stays as it is$"
    with pytest.warns(UserWarning, match=words):
        trainer.load(tmp_path / "run")
    assert trainer.callbacks[1].best == saved.callbacks[0].best
    assert stopping.best == np.inf
    assert same(fit(trainer, 3).model.state_dict(), fit(saved, 3).model.state_dict())


def test_several_callbacks_of_one_key_keep_their_order(tmp_path):
    counts = [Count(), Count(), Count()]
    counts[1].count, counts[2].count = 100, 200
    fit(with_callbacks(*counts), 1, tmp_path / "run")
    others = [Count(), Count(), Count()]
    with_callbacks(*others).load(tmp_path / "run")
    assert [c.count for c in others] == [4, 104, 204]


def test_a_file_with_numbered_callbacks_and_no_architecture_still_loads(tmp_path):
    saved = fit(with_callbacks(EarlyStopping(50), Callback()), 2, tmp_path / "new")
    file = checkpoint.load(tmp_path / "new")
    arrays = {
        name.replace("callbacks.EarlyStopping(least loss).", "callbacks.0."): array
        for name, array in file.arrays.items()
    }
    del file.metadata["trainer"]["callbacks"]
    checkpoint.save(tmp_path / "old", arrays, metadata=file.metadata)
    trainer = with_callbacks(EarlyStopping(50), Callback(), seed=1)
    trainer.load(tmp_path / "old")
    assert trainer.callbacks[0].best == saved.callbacks[0].best
    assert same(fit(trainer, 3).model.state_dict(), fit(saved, 3).model.state_dict())
    with pytest.warns(UserWarning, match="what 0 remembered is left out"):
        with_callbacks().load(tmp_path / "old")


class Saver(Callback):
    """Saves in every event, before the callbacks after it were called."""

    def __init__(self, folder):
        self.folder = folder

    def on_step(self, trainer):
        trainer.save(self.folder / f"step-{trainer.step}")

    def on_evaluation(self, trainer, result):
        trainer.save(self.folder / f"evaluation-{trainer.step}")

    def on_end(self, trainer):
        trainer.save(self.folder / "end")


def test_what_a_callback_saves_belongs_to_one_step(tmp_path):
    bests = {}

    class Note(Callback):
        def on_evaluation(self, trainer, result):
            bests[trainer.step] = (stopping.best, stopping.waited)

    stopping = EarlyStopping(50, restore_best=True)
    whole = fit(with_callbacks(Saver(tmp_path), stopping, Note()), 4)
    assert sorted(bests) == [4, 8, 12, 16]
    for step, (best, waited) in bests.items():
        for event in ("step", "evaluation"):
            saved = checkpoint.load(tmp_path / f"{event}-{step}")
            state = saved.part("callbacks.EarlyStopping(least loss)")
            assert (state["best"], state["waited"]) == (best, waited)
            assert saved.metadata["trainer"]["step"] == step
    assert same(checkpoint.load(tmp_path / "end").part("model"), whole.model.state_dict())
    for step in (8, 11):
        resumed = with_callbacks(EarlyStopping(50, restore_best=True), seed=3)
        resumed.load(tmp_path / f"step-{step}")
        assert same(fit(resumed, 4).model.state_dict(), whole.model.state_dict())
        assert resumed.callbacks[0].best == stopping.best
        assert resumed.history.records() == whole.history.records()


# ---------------------------------------------------------------------------- stopped, and the best


def stopping_trainer(patience, seed=0, **settings):
    losses = [5, 4, 3, 3.5, 3.2, 3.1, 1, 2, 0.5, 3, 3, 3]
    stopping = EarlyStopping(patience, restore_best=True, **settings)
    return make(seed=seed, callbacks=[Scripted(losses), stopping], batch_size=16, dropout=0.1)


def bias(trainer):
    return trainer.model.head.bias.data[0]


def test_a_training_that_was_stopped_early_stays_stopped(tmp_path):
    path = tmp_path / "run"
    first = fit(stopping_trainer(2), 9, path)
    assert first.stopped == "no better loss than 3"
    state = first.model.state_dict()
    for trainer in (first, stopping_trainer(2, seed=1)):
        trainer.load(path)
        fit(trainer, 9, path)
        assert trainer.step == 2 * 5
        assert trainer.stopped == "no better loss than 3"
        assert bias(trainer) == 3
        assert same(trainer.model.state_dict(), state)
        assert len(trainer.history["loss"].values) == 10


def test_with_more_patience_it_goes_on_as_if_it_had_not_been_stopped(tmp_path):
    whole = fit(stopping_trainer(4), 9, tmp_path / "whole")
    assert whole.epoch == 9
    fit(stopping_trainer(2), 9, tmp_path / "stopped")
    trainer = stopping_trainer(4, seed=1)
    trainer.load(tmp_path / "stopped")
    fit(trainer, 9, tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == (tmp_path / "whole").read_bytes()


def test_the_best_is_kept_at_a_natural_end_and_training_goes_on_from_the_last(tmp_path):
    whole = fit(stopping_trainer(99), 8, tmp_path / "whole")
    assert whole.stopped == ""
    assert bias(whole) == 7  # its loss was 1
    halves = fit(stopping_trainer(99), 5, tmp_path / "half")
    assert bias(halves) == 3
    assert bias_in(tmp_path / "half") == 3  # what is saved is what the model is
    fit(halves, 8, tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == (tmp_path / "whole").read_bytes()
    resumed = stopping_trainer(99, seed=1)
    resumed.load(tmp_path / "half")
    fit(resumed, 8, tmp_path / "third")
    assert (tmp_path / "third").read_bytes() == (tmp_path / "whole").read_bytes()


def bias_in(path):
    return checkpoint.load(path).part("model")["head.bias"][0]


def test_the_best_is_not_put_back_when_training_is_only_interrupted(tmp_path, sigint):
    trainer = stopping_trainer(99)
    trainer.callbacks = (*trainer.callbacks, Interrupt(10))
    fit(trainer, 9, tmp_path / "run")
    assert trainer.stopped == "interrupted"
    assert bias(trainer) != 3
    fit(trainer, 9)
    assert trainer.epoch == 9


@pytest.mark.parametrize("patience", [2, 99])
def test_the_best_has_a_checkpoint_of_its_own(patience, tmp_path):
    trainer = fit(stopping_trainer(patience, save_best_to=tmp_path / "best"), 5, tmp_path / "run")
    loaded = checkpoint.load(tmp_path / "best")
    assert loaded.metadata == {"step": 6, "loss": 3}
    assert same(loaded.arrays, trainer.model.state_dict())  # restored, too
    twin = models.load(tmp_path / "best", classes=[Bag])
    assert same(twin.state_dict(), trainer.model.state_dict())


MISSING = {
    "save_to": lambda trainer, path: trainer.fit(examples(30), steps=3, save_to=path),
    "save_best_to": lambda trainer, path: with_best(trainer, path).fit(examples(30), steps=3),
    "path": lambda trainer, path: with_saver(trainer, path).fit(examples(30), steps=3),
}


def with_best(trainer, path):
    trainer.callbacks = (EarlyStopping(1, save_best_to=path),)
    return trainer


def with_saver(trainer, path):
    class SaveAtOnce(Callback):
        def on_start(self, trainer):
            trainer.save(path)

    trainer.callbacks = (SaveAtOnce(),)
    return trainer


@pytest.mark.parametrize("name", MISSING)
def test_where_nothing_can_be_saved_is_said_before_the_first_step(name, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path, kind, words in (
        (tmp_path / "no" / "run", FileNotFoundError, "expected a path in a folder that exists"),
        (tmp_path / "file" / "run", FileNotFoundError, "expected a path in a folder that exists"),
        (tmp_path, IsADirectoryError, "expected the path of a file, got the folder"),
    ):
        trainer = make()
        before = trainer.model.state_dict()
        with pytest.raises(kind, match=f"{name}: {words}"):
            MISSING[name](trainer, path)
        assert trainer.step == 0
        assert same(trainer.model.state_dict(), before)
    MISSING[name](make(), tmp_path / "run")
    assert sorted(os.listdir(tmp_path))[0] == "file"
    assert not [entry for entry in os.listdir(tmp_path) if entry.endswith(".tmp")]


def test_a_folder_that_may_not_be_written_to_is_said(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("miniattn._disk._temporary", refuse)
    words = r"save_to: expected a folder that files can be put into, got .* \(Permission denied\)"
    with pytest.raises(PermissionError, match=words):
        make().fit(examples(30), steps=3, save_to=tmp_path / "run")


def test_a_file_of_something_else(tmp_path):
    trainer = make()
    checkpoint.save(tmp_path / "model", trainer.model)
    with pytest.raises(CheckpointError, match="expected a file saved by a Trainer"):
        trainer.load(tmp_path / "model")


# ---------------------------------------------------------------------------------------- errors


def gpt_trainer(**settings):
    model = models.GPT(8, 4, embed_dim=8, num_heads=2, num_layers=1)
    return Trainer(model, optim.AdamW(model.named_parameters()), progress=False, **settings)


def test_a_wrong_validation_set_is_noticed_before_the_first_step():
    trainer = make()
    with pytest.raises(TypeError, match="valid: expected one dataset"):
        trainer.fit(examples(64), epochs=1, valid=(examples(9), examples(9)))
    assert trainer.step == 0
    with pytest.raises(TypeError, match="collate: expected keywords that GPT"):
        gpt_trainer().fit(Windows(np.arange(8), 3), steps=1)
    gpt_trainer(collate=stack).fit(Windows(np.arange(8), 3), steps=1)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: make(batch_size=0), ValueError, "batch_size: expected an int >= 1"),
        (lambda: make(accumulate=1.5), TypeError, "accumulate: expected an int"),
        (lambda: make(pool=-1), ValueError, "pool: expected an int >= 0"),
        (lambda: make(clip_norm=0), ValueError, "clip_norm: expected a number > 0"),
        (
            lambda: Trainer(make().model, make().optimizer, rng=0),
            TypeError,
            "rng: expected a numpy.random.Generator",
        ),
        (lambda: make().fit([], epochs=1), ValueError, "train: expected at least one example"),
        (lambda: make().fit(examples(2)), ValueError, "epochs, steps: expected exactly one"),
        (lambda: make().fit(examples(2), epochs=1, steps=1), ValueError, "expected exactly one"),
        (lambda: make().fit(examples(2), steps=-1), ValueError, "steps: expected an int >= 0"),
        (lambda: make().fit(examples(2), epochs="1"), TypeError, "epochs: expected an int"),
        (
            lambda: make().fit(examples(2), steps=1, evaluate_every=0),
            ValueError,
            "evaluate_every: expected an int >= 1",
        ),
        (
            lambda: make().fit([row for row, _ in examples(2)], steps=1),
            TypeError,
            "examples[0]: expected an example (x, y), got an array",
        ),
        (
            lambda: make().fit((x for x in examples(2)), steps=1),
            TypeError,
            "train: expected a sequence of examples (x, y), got a generator",
        ),
        (
            lambda: make().fit(examples(2), steps=1, valid={"a": examples(2), "b": {}}),
            TypeError,
            "valid['b']: expected a sequence of examples (x, y), got a dict",
        ),
        (
            lambda: make().fit(examples(2), steps=1, valid=[examples(5), examples(5)]),
            TypeError,
            "valid: expected one dataset of examples (x, y): examples[0]: expected an example",
        ),
        (
            lambda: gpt_trainer().fit(Windows(np.arange(8), 3), steps=1),
            TypeError,
            "collate: expected keywords that GPT.forward takes (ids, mask, bias, caches, rng), "
            "got 'lengths'",
        ),
        (
            lambda: gpt_trainer().evaluate(Windows(np.arange(8), 3)),
            TypeError,
            "data.stack gives none",
        ),
        (lambda: make().evaluate([]), ValueError, "dataset: expected at least one example"),
        (lambda: EarlyStopping(0), ValueError, "patience: expected an int >= 1"),
    ],
)
def test_wrong_arguments(call, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        call()


def test_the_bars_clock_starts_after_the_first_step():
    """Which may compile for long: of 1,000 steps, 100 s of it would be a day."""
    bar = Bar(total=1000, file=io.StringIO())
    bar.bar.start_t -= 100.0
    bar.show_step(1.0, 10, 100.0)
    shown = bar.bar.format_dict
    assert (shown["n"], shown["initial"]) == (1, 1)
    assert shown["elapsed"] < 50
    bar.show_step(1.0, 10, 0.5)
    assert bar.bar.format_dict["n"] == 2
    assert "20 tokens/s" in bar.bar.postfix
    bar.close()


def test_a_mask_and_a_bias_go_to_the_model(rng):
    """With every batch, in training and evaluation; a model that takes none says so."""
    seen = []

    class Watched(models.GPT):
        def forward(self, ids, **options):
            seen.append({name: x for name, x in options.items() if name in ("mask", "bias")})
            return super().forward(ids, **options)

    model = Watched(6, 8, embed_dim=8, num_heads=2, num_layers=1, rng=rng)
    given = {"mask": masks.dilated(2) & masks.causal(), "bias": np.zeros((8, 8), np.float32)}
    rows = Windows(rng.integers(0, 6, 60), 8)
    optimizer = optim.AdamW(model.named_parameters(), lr=1e-3)
    trainer = Trainer(model, optimizer, collate=stack, progress=False, **given)
    trainer.fit(rows, steps=1)
    trainer.evaluate(rows)
    assert len(seen) > 1
    assert all(options["mask"] is given["mask"] for options in seen)
    assert all(options["bias"] is given["bias"] for options in seen)
    layer = nn.Linear(2, 2)
    optimizer = optim.AdamW(layer.named_parameters())
    with pytest.raises(TypeError, match=r"mask: expected None, because Linear.forward takes"):
        Trainer(layer, optimizer, mask=masks.causal())
