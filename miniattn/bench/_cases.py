"""What is measured: operations, shapes, and the work that each of them cannot do without."""

from collections.abc import Iterator
from typing import Any, NamedTuple

Case = dict[str, Any]  # as the workers get it: op, backward, and the sizes


class Group(NamedTuple):
    """A table of the report: the cases of one operation in one direction."""

    title: str
    limit: str  # "multiply_add" or "copy": what the speed is a part of
    cases: list[Case]


# (B, H, T, S, D, mask): from many short heads to a few long ones, and one query against a cache.
GRID = [
    (32, 4, 64, 64, 16, "full"),
    (32, 4, 64, 64, 16, "causal"),
    (32, 4, 64, 64, 16, "padding"),
    (64, 4, 17, 17, 32, "full"),
    (16, 4, 128, 128, 32, "causal"),
    (8, 8, 128, 128, 64, "full"),
    (8, 8, 200, 200, 64, "padding"),
    (4, 8, 256, 256, 80, "full"),
    (4, 8, 500, 500, 64, "causal"),
    (2, 8, 512, 512, 128, "full"),
    (4, 8, 512, 512, 64, "padding"),
    (1, 8, 1000, 1000, 80, "causal"),
    (2, 8, 1024, 1024, 64, "full"),
    (2, 8, 1024, 1024, 64, "causal"),
    (1, 4, 2048, 2048, 16, "causal"),
    (2, 4, 2048, 2048, 32, "full"),
    (1, 4, 2048, 2048, 64, "full"),
    (1, 4, 2048, 2048, 128, "causal"),
    (1, 4, 4096, 4096, 64, "causal"),
    (1, 2, 8192, 8192, 64, "causal"),
    (4, 8, 1, 2048, 64, "full"),
    (1, 1, 1, 16384, 64, "full"),
]
QUICK_GRID = [GRID[i] for i in (0, 4, 6, 13, 20)]

ROWS = (10, 32, 100, 256, 1000, 4096, 32768)
TOTALS = (2**20, 2**24)
LENGTHS = [2**i for i in range(8, 17)]
# Where an array of T x T numbers exists, and more than one, memory ends before patience does.
LONGEST = {"numpy": 16_384, "jax": 16_384, "onnxruntime": 0}

# (op, layers, E, H, B, T): nanoGPT's models of characters, and a tiny one. "train" is a step with
# clipping and AdamW, "classify" the same for an encoder that reads padded sequences, "logits" a
# forward pass, "decode" T tokens written one by one.
MODELS = [
    ("train", 2, 64, 4, 8, 32),
    ("train", 4, 128, 4, 12, 64),
    ("train", 6, 384, 6, 8, 256),
    ("classify", 2, 64, 4, 64, 42),
    ("logits", 6, 384, 6, 1, 256),
    ("logits", 6, 384, 6, 8, 256),
    ("decode", 4, 128, 4, 1, 64),
    ("decode", 4, 128, 4, 16, 64),
    ("decode", 6, 384, 6, 1, 64),
]
WORDS = {
    "train": "training",
    "classify": "classifier",
    "logits": "forward",
    "decode": "decoding",
}
CLASSES = 10
BUSY = 1  # other processes, for "beside others"

PEAK: Case = {"op": "multiply_add", "rows": 2_000, "n": 128, "backward": False}


def groups(quick: bool) -> list[Group]:
    """Return the tables of the report; ``quick`` keeps a few cases of each."""
    totals = TOTALS[:1] if quick else TOTALS
    rows = ROWS[::3] if quick else ROWS
    both = {False: "forward", True: "forward + backward"}
    tables = [Group("copy", "copy", [_rows("copy", n, 1024) for n in totals])]
    for backward, text in both.items():
        attention = [_attention(backward, *shape) for shape in (QUICK_GRID if quick else GRID)]
        tables.append(Group(f"attention, {text}", "multiply_add", attention))
    for backward, text in both.items():
        softmax = [_rows("softmax", total, n, backward) for total in totals for n in rows]
        tables.append(Group(f"softmax, {text}", "copy", softmax))
    for backward, text in both.items():
        layers = [
            *(_rows("cross_entropy", total, n, backward) for total in totals for n in rows[::2]),
            *(_rows("layer_norm", total, n, backward) for total in totals for n in (64, 768)),
            *(_rows("gelu", total, 1024, backward) for total in totals),
        ]
        tables.append(Group(f"layers, {text}", "copy", layers))
    models = [_model(*m) for m in (MODELS[:1] + MODELS[6:7] if quick else MODELS)]
    tables.append(Group("models", "multiply_add", models))
    beside = [_model(*m, busy=BUSY) for m in (MODELS[:1] if quick else MODELS[:2] + MODELS[6:7])]
    tables.append(Group("models beside others", "multiply_add", beside))
    tables.append(Group("optimiser", "copy", [_rows("adamw", total, 1024) for total in totals]))
    return tables


def lengths(quick: bool) -> list[Case]:
    """Return causal attention of one head, both directions, for growing T."""
    return [_attention(True, 1, 1, T, T, 64, "causal") for T in LENGTHS[: 3 if quick else None]]


def _attention(backward: bool, B: int, H: int, T: int, S: int, D: int, mask: str) -> Case:
    sizes = {"B": B, "H": H, "T": T, "S": S, "D": D, "mask": mask}
    return {"op": "attention", "backward": backward, **sizes}


def _rows(op: str, total: int, n: int, backward: bool = False) -> Case:
    return {"op": op, "backward": backward, "rows": total // n, "n": n}


def _model(op: str, layers: int, E: int, H: int, B: int, T: int, *, busy: int = 0) -> Case:
    sizes = {"layers": layers, "E": E, "H": H, "B": B, "T": T, "V": 65}
    more: Case = {"busy": busy} if busy else {}
    if op == "classify":
        more |= {"mask": "padding", "S": T, "N": CLASSES}
    return {"op": op, "backward": op in ("train", "classify"), **sizes, **more}


def sizes(case: Case) -> str:
    """Return the sizes of a case as the tables show them."""
    if case["op"] == "attention":
        shape = ",".join(str(case[letter]) for letter in "BHTSD")
        return f"({shape}) {case['mask']}"
    if case["op"] in WORDS:
        model = f"{WORDS[case['op']]} {case['layers']} x {case['E']}, {case['B']} x {case['T']}"
        return model + (f", {case['busy']} busy" if "busy" in case else "")
    return f"{case['op']} {case['rows']} x {case['n']}"


def name(case: Case) -> str:
    """Return the name of a case: unique, and what ``--only`` searches."""
    if case["op"] in WORDS:
        return sizes(case)
    words = [sizes(case), "forward + backward" if case["backward"] else "forward"]
    return " ".join(words if case["op"] != "attention" else ["attention", *words])


def operations(case: Case) -> float:
    """Return the floating-point operations of a case's matrix products.

    Two products forward. Backward another five, of which one is the scores over again, because
    nothing of size T x S was kept. Hidden pairs of query and key are not counted.
    """
    if case["op"] in WORDS:
        return _operations_of_model(case)
    products = 7 if case["backward"] else 2
    return float(2 * products * case["D"] * case["H"] * sum(_pairs(case)))


def _operations_of_model(case: Case) -> float:
    """Return those of linear maps and attention; their backward has 2 and 2.5 times as many."""
    layers, E, B, T = (case[name] for name in ("layers", "E", "B", "T"))
    if case["op"] == "classify":  # the head reads one vector of a sequence; padding is computed
        maps = 2 * B * (12 * layers * T * E * E + case["N"] * E)
        attention = 4 * layers * E * sum(_pairs(case))
    else:
        maps = 2 * B * T * (12 * layers * E * E + case["V"] * E)
        attention = 2 * layers * E * B * T * (T + 1)
    return float(3 * maps + 3.5 * attention if case["backward"] else maps + attention)


def _pairs(case: Case) -> Iterator[int]:
    """Yield the visible pairs of query and key, sequence by sequence."""
    from miniattn.bench.worker import data

    B, T, S = case["B"], case["T"], case["S"]
    if case["mask"] == "padding":
        yield from (T * int(length) for length in data.lengths(case))
    else:
        yield B * (T * S - T * (T - 1) // 2 if case["mask"] == "causal" else T * S)


def traffic(case: Case) -> float:
    """Return the bytes that an operation on rows reads and writes at least, each array once."""
    arrays = {
        ("copy", False): 2,
        ("softmax", False): 2,  # x -> y
        ("softmax", True): 5,  # and y, dy -> dx
        ("cross_entropy", False): 1,
        ("cross_entropy", True): 3,  # and x -> dx
        ("layer_norm", False): 2,
        ("layer_norm", True): 5,
        ("gelu", False): 2,
        ("gelu", True): 5,
        ("adamw", False): 7,  # x, m, v, dy -> x, m, v
    }[case["op"], case["backward"]]
    return float(4 * arrays * case["rows"] * case["n"])
