"""What must hold on any number of ranks: run by ``mpiexec``, and by the simulator.

Each check is a function of a communicator; `main` runs all of them under MPI.
"""

import numpy as np
from faults import ROWS, trainer

import miniattn.functional as F
from miniattn import distributed, masks
from miniattn.distributed._comm import gather


def check_that_parts_make_up_the_whole(comm):
    whole = np.arange(22).reshape(2, 11)
    for layout in ("contiguous", "striped"):
        part = distributed.share(whole, comm, axis=1, layout=layout)
        places = distributed.positions(11, comm, layout=layout)
        np.testing.assert_array_equal(part, whole[:, places])
        np.testing.assert_array_equal(distributed.collect(part, comm, axis=1, layout=layout), whole)


def check_that_training_has_the_bits_of_one_rank(comm):
    def train(comm):
        training = trainer(comm, pieces=4)
        training.fit(ROWS, valid=ROWS, steps=5)
        return training

    alone = distributed.simulate(1).run(train)[0]
    own = train(comm)
    np.testing.assert_array_equal(own.model.weight.data, alone.model.weight.data)
    for name in alone.history:
        np.testing.assert_array_equal(own.history[name].values, alone.history[name].values)


def check_that_attention_over_ranks_is_attention(comm):
    q, k, v, dout = np.random.default_rng(0).normal(size=(4, 1, 4, 13, 4))
    mask = masks.causal() & masks.window(6, 0, sinks=1)
    out, ctx = F.attention_forward(q, k, v, mask=mask)
    expected = [out, *F.attention_backward(dout, ctx)[:3]]
    for pair in (
        (distributed.ring_attention_forward, distributed.ring_attention_backward),
        (distributed.head_attention_forward, distributed.head_attention_backward),
    ):
        for layout in ("contiguous", "striped"):
            own = [distributed.share(x, comm, layout=layout) for x in (q, k, v, dout)]
            out, ctx = pair[0](*own[:3], comm=comm, mask=mask, layout=layout)
            for mine, whole in zip((out, *pair[1](own[3], ctx)), expected, strict=True):
                found = distributed.collect(mine, comm, layout=layout)
                np.testing.assert_allclose(found, whole, rtol=0, atol=1e-12)


CHECKS = [value for name, value in list(globals().items()) if name.startswith("check_")]


def main():
    comm = distributed.world()
    for check in CHECKS:
        check(comm)
    gather(comm, None)
    if comm.Get_rank() == 0:
        print(f"{len(CHECKS)} checks passed on {comm.Get_size()} ranks")


if __name__ == "__main__":
    main()
