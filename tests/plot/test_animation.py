"""Animations, and the recorder that makes their frames during training."""

import re
from typing import Any, NamedTuple

import numpy as np
import pytest
from matplotlib.animation import FFMpegWriter
from PIL import Image

from miniattn import nn, optim, plot
from miniattn.trace import attention_weights
from miniattn.training import Trainer

TOKENS = list("abc")


def maps(count):
    """Maps that go from uniform to the diagonal."""
    return [np.eye(3) * t + (1 - t) / 3 for t in np.linspace(0, 1, count)]


def frames(path):
    """Return the frames of a GIF (N, height, width, 3), and how many milliseconds each stays."""
    with Image.open(path) as film:
        pictures, times = [], []
        for n in range(film.n_frames):
            film.seek(n)
            pictures.append(np.asarray(film.convert("RGB")))
            times.append(film.info["duration"])
    return np.array(pictures), times


def test_a_gif_has_a_frame_for_every_map_and_holds_the_last(tmp_path):
    path = plot.animate(maps(4), tmp_path / "film.gif", TOKENS, fps=5, hold=1, dpi=50)
    assert path == tmp_path / "film.gif"
    pictures, times = frames(path)
    # Equal frames in a row are one frame that stays as long: the last is drawn, then held for 1 s.
    assert times == [200, 200, 200, 1200]
    assert len(np.unique(pictures.reshape(4, -1), axis=0)) == 4


def test_nothing_moves_but_the_map(tmp_path):
    film = plot.animate(maps(3), tmp_path / "film.gif", TOKENS, titles=["a"] * 3, hold=0, dpi=50)
    pictures, _ = frames(film)
    # A GIF has 256 colours, chosen for each frame: small differences are none.
    moved = np.abs(pictures.astype(int) - pictures[0]).max(axis=(0, 3)) > 60
    box = np.ptp(np.argwhere(moved), axis=0)
    [height, width] = pictures.shape[1:3]
    assert 0 < box[0] < 0.9 * height
    assert 0 < box[1] < 0.8 * width, "the colour bar stays as it is"


def test_all_frames_share_one_scale(tmp_path):
    """The first map, which has no weight above 1/3, is nowhere as bright as the last."""
    film = plot.animate(maps(2), tmp_path / "film.gif", titles=["", ""], hold=0, dpi=50, vmax=None)
    first, last = frames(film)[0]
    middle = (slice(None), slice(0, int(0.7 * first.shape[1])))  # without the colour bar
    yellow = [
        np.count_nonzero((p[middle] > 200).all(-1) ^ (p[middle][..., 0] > 240))
        for p in (first, last)
    ]
    assert yellow[0] < yellow[1]


@pytest.mark.skipif(not FFMpegWriter.isAvailable(), reason="the program ffmpeg is not there")
def test_a_film(tmp_path):
    path = plot.animate(maps(4), tmp_path / "film.mp4", TOKENS, dpi=51)
    assert path.read_bytes()[4:8] == b"ftyp"


def test_a_film_without_ffmpeg_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda cls: False))
    with pytest.raises(RuntimeError, match=r"ffmpeg, which is not there; use \.gif"):
        plot.animate(maps(2), tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            (maps(2), "film.avi"),
            {},
            "path: expected a name that ends in .gif or .mp4, got 'film.avi'",
        ),
        ((np.zeros((0, 3, 3)), "film.gif"), {}, "maps: expected at least one map, got none"),
        ((np.eye(3), "film.gif"), {}, "maps: expected shape (N, T, S), got (3, 3)"),
        ((maps(2), "film.gif", ["a"]), {}, "tokens: expected T = 3 tokens, got 1"),
        ((maps(2), "film.gif"), {"titles": ["a"]}, "titles: expected 2, one a panel, got 1"),
        ((maps(2), "film.gif"), {"fps": 0}, "fps: expected"),
        ((maps(2), "film.gif"), {"scale": "cubic"}, "scale: expected one of"),
    ],
    ids=lambda value: "",
)
def test_wrong_calls(arguments, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        plot.animate(*arguments, **options)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------- the recorder


class LookerContext(NamedTuple):
    attn: Any
    head: Any


class Looker(nn.Module):
    """One attention layer, and a class from the mean of what it returns."""

    def __init__(self, *, rng):
        self.attn = nn.MultiHeadAttention(8, 2, rng=rng)
        self.head = nn.Linear(8, 2, rng=rng)

    def forward(self, x, lengths=None, *, rng=None):
        y, attn = self.attn.forward(x)
        logits, head = self.head.forward(y.mean(axis=1))
        return logits, LookerContext(attn, head)

    def backward(self, dlogits, ctx):
        dy = np.repeat(self.head.backward(dlogits, ctx.head)[:, None] / 3, 3, axis=1)
        self.attn.backward(dy, ctx.attn)


@pytest.fixture
def data(rng):
    x = rng.standard_normal((8, 3, 8), dtype=np.float32)
    return [(row, int(row[0, 0] > 0)) for row in x]


def trainer(recorder, seed=0):
    rng = np.random.default_rng(seed)
    model = Looker(rng=rng)
    adam = optim.AdamW(model.named_parameters(), lr=0.05)
    return Trainer(model, adam, rng=rng, batch_size=4, progress=False, callbacks=[recorder])


def test_what_is_recorded_is_the_map_at_that_step(data):
    x = data[5][0][None]
    recorder = plot.Recorder(x, head=1, every=2)
    run = trainer(recorder)
    recorder.record(run.model, 0)
    run.fit(data, steps=7)
    assert recorder.steps == [0, 2, 4, 6]
    assert recorder.extent == (3, 3)
    run.fit(data, steps=8)
    assert recorder.steps[-1] == 8
    now = attention_weights(run.model.forward(x)[1]).weights["attn"][0, 1]
    np.testing.assert_array_equal(recorder.maps[-1], now)
    assert not np.array_equal(recorder.maps[0], now), "it learns"


def test_recording_leaves_training_as_it_is(data):
    with_it, without = trainer(plot.Recorder(data[0][0][None])), trainer(plot.Recorder(every=1000))
    for run in (with_it, without):
        run.fit(data, steps=4)
    for name, value in without.model.state_dict().items():
        np.testing.assert_array_equal(with_it.model.state_dict()[name], value)


def test_what_was_recorded_is_part_of_a_checkpoint(data, tmp_path):
    x = data[0][0][None]
    whole = trainer(plot.Recorder(x))
    whole.fit(data, steps=4)
    cut = trainer(plot.Recorder(x))
    cut.fit(data, steps=2)
    cut.save(tmp_path / "run.safetensors")
    resumed = trainer(plot.Recorder(x), seed=1)
    resumed.load(tmp_path / "run.safetensors")
    resumed.fit(data, steps=4)
    [expected], [got] = whole.callbacks, resumed.callbacks
    assert got.steps == expected.steps == [1, 2, 3, 4]
    np.testing.assert_array_equal(got.maps, expected.maps)
    assert got.extent == (3, 3)


def test_an_empty_recorder_is_resumed_too():
    recorder = plot.Recorder()
    recorder.load_state_dict(recorder.state_dict())
    assert (recorder.maps, recorder.steps) == ([], [])


def test_the_animation_of_a_recorder(data, tmp_path):
    recorder = plot.Recorder(data[0][0][None])
    run = trainer(recorder)
    run.fit(data, steps=3)
    path = recorder.animate(tmp_path / "head.gif", TOKENS, hold=0, dpi=50)
    assert len(frames(path)[0]) == 3


def test_long_maps_are_pooled(rng):
    recorder = plot.Recorder(rng.standard_normal((1, 600, 8), dtype=np.float32))
    recorder.record(Looker(rng=rng), 0)
    [pooled] = recorder.maps
    assert max(pooled.shape) <= 256
    assert recorder.extent == (600, 600)
    np.testing.assert_allclose(pooled.sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "layers.3"}, "layer: expected one of ['attn'], got 'layers.3'"),
        ({"head": 2}, "head: expected an index in [0, 2), got 2"),
        ({"batch": 1}, "batch: expected an index in [0, 1), got 1"),
    ],
)
def test_what_is_not_there_cannot_be_recorded(rng, options, message):
    recorder = plot.Recorder(np.ones((1, 3, 8), np.float32), **options)
    with pytest.raises(ValueError, match=re.escape(message)):
        recorder.record(Looker(rng=rng), 0)


def test_a_recorder_without_frames_cannot_be_animated(tmp_path):
    with pytest.raises(ValueError, match="maps: expected"):
        plot.Recorder().animate(tmp_path / "head.gif")


@pytest.mark.parametrize("option", ["head", "batch", "every"])
def test_wrong_settings(option):
    with pytest.raises(ValueError, match=f"{option}: expected"):
        plot.Recorder(**{option: -1})
