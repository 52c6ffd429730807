"""Ranks in one process: messages, clocks, and what goes wrong."""

import threading

import numpy as np
import pytest
from on_ranks import CHECKS

from miniattn import distributed
from miniattn.distributed._comm import agree, broadcast, exchange, gather
from miniattn.distributed._simulate import WAITING

simulate = distributed.simulate


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_holds_on_ranks(check, n):
    simulate(n).run(check)


def test_everyone_hears_everyone():
    def words(comm):
        rank = comm.Get_rank()
        short = gather(comm, ("of", rank))
        long = gather(comm, "x" * (1000 * rank))  # longer than the head of a message
        return short, [len(text) for text in long], broadcast(comm, rank * 2 + 7)

    for n in (1, 2, 5):
        expected = [("of", r) for r in range(n)], [1000 * r for r in range(n)], 7
        assert simulate(n).run(words) == [expected] * n


def test_each_gets_its_own():
    def swap(comm):
        rank, n = comm.Get_rank(), comm.Get_size()
        coming = [np.zeros(2) for _ in range(n)]
        exchange(comm, [np.array([rank, other]) + 0.0 for other in range(n)], coming, tag=3)
        return np.array(coming)

    for rank, got in enumerate(simulate(3).run(swap)):
        np.testing.assert_array_equal(got, [[other, rank] for other in range(3)])


def test_messages_are_taken_in_the_order_they_are_asked_for():
    def ask(comm):
        if comm.Get_rank() == 0:
            for number in (1, 2, 3):
                comm.Isend(np.array([number]), 1)
            return None
        buffers = [np.zeros(1, int) for _ in range(3)]
        requests = [comm.Irecv(buffer, 0) for buffer in buffers]
        for request in requests[::-1]:
            request.Wait()
        return [int(buffer[0]) for buffer in buffers]

    assert simulate(2).run(ask)[1] == [1, 2, 3]


def test_a_message_is_what_it_was_when_it_was_sent():
    def send(comm):
        x = np.zeros(1)
        if comm.Get_rank() == 0:
            comm.Isend(x, 1)
            x[:] = 5
        else:
            comm.Irecv(x, 0).Wait()
        return float(x[0])

    assert simulate(2).run(send) == [5.0, 0.0]


def test_ranks_that_wait_for_each_other_are_found_out():
    def stuck(comm):
        comm.Irecv(np.zeros(1), 1 - comm.Get_rank()).Wait()

    with pytest.raises(RuntimeError, match="rank 0 waits for rank 1, rank 1 waits for rank 0"):
        simulate(2).run(stuck)


def test_a_rank_that_is_waited_for_and_ends_is_found_out():
    def gone(comm):
        if comm.Get_rank():
            comm.Irecv(np.zeros(1), 0).Wait()

    with pytest.raises(RuntimeError, match="rank 1 waits for rank 0, rank 2 waits for rank 0"):
        simulate(3).run(gone)


def test_an_error_says_where_and_stops_the_others():
    def fail(comm):
        if comm.Get_rank() == 1:
            raise KeyError("lost")
        comm.Irecv(np.zeros(1), 1).Wait()

    with pytest.raises(KeyError, match="lost") as caught:
        simulate(3).run(fail)
    assert caught.value.__notes__ == ["(on rank 1 of 3)"]
    assert threading.active_count() == 1 or not any(
        thread.name.endswith("(_work)") for thread in threading.enumerate()
    )


def test_clocks_know_of_latency_and_bandwidth():
    def send(comm):
        if comm.Get_rank() == 0:
            comm.Isend(np.zeros(1000, np.uint8), 1)
            comm.Isend(np.zeros(500, np.uint8), 1)  # behind the first, on the same line
            return
        comm.mark("work")
        for size in (1000, 500):
            comm.Irecv(np.zeros(size, np.uint8), 0).Wait()

    simulation = simulate(2, latency=100.0, bandwidth=10.0)
    simulation.run(send)
    assert simulation.seconds == pytest.approx(250.0, abs=1.0)  # 150 on the line, then 100
    waiting = [span for span in simulation.spans if span.name == WAITING]
    assert [span.rank for span in waiting] == [1, 1]
    assert waiting[0].end == pytest.approx(200.0, abs=1.0)
    assert simulation.sent == [1500, 0]


def test_one_rank_computes_at_a_time():
    running, most = [0], [0]

    def work(comm):
        for _ in range(3):
            running[0] += 1
            most[0] = max(most[0], running[0])
            sum(range(1000))
            running[0] -= 1
            gather(comm, None)

    simulate(4).run(work)
    assert most == [1]


def test_what_differs_between_ranks_is_named_on_every_rank():
    def differ(comm):
        rank = comm.Get_rank()
        try:
            agree(comm, {"scale": 0.5, "dropout": 0.1 if rank == 1 else 0.0})
        except ValueError as error:
            return str(error)
        return ""

    words = "dropout: expected the same on every rank, got 0.0 on ranks 0, 2 and 0.1 on rank 1"
    assert simulate(3).run(differ) == [words] * 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: simulate(0), "n: expected an int >= 1, got 0"),
        (lambda: simulate(2, latency=-1.0), "latency: expected a number >= 0, got -1.0"),
        (lambda: simulate(2, bandwidth=0), "bandwidth: expected a number > 0, got 0"),
        (
            lambda: simulate(2).run(lambda comm: comm.Isend(np.zeros(1), 2)),
            "dest: expected a rank below 2, got 2",
        ),
        (
            lambda: simulate(1).run(lambda comm: comm.Isend(np.zeros((4, 4))[:, 1], 0)),
            "buf: expected a contiguous array, got one with gaps",
        ),
        (lambda: simulate(1).run(too_small), "buf: expected room for 16 bytes .*, got 8"),
    ],
)
def test_wrong_calls(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def too_small(comm):
    comm.Isend(np.zeros(2), 0)
    comm.Irecv(np.zeros(1), 0).Wait()
