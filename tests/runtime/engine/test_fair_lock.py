"""Whoever has waited longest is next, and who gives up waiting is in nobody's way."""

from __future__ import annotations

import threading

import pytest

from runtime.engine.fair_lock import FairLock


def wait_for(condition):
    done = threading.Event()
    for _ in range(3000):
        if condition():
            return
        done.wait(0.01)
    pytest.fail("nothing happened for half a minute")


def test_threads_are_served_in_the_order_of_asking():
    lock, served, threads = FairLock(), [], []

    def run(number):
        with lock:
            served.append(number)

    with lock:
        for number in range(5):
            threads.append(threading.Thread(target=run, args=(number,)))
            threads[-1].start()
            wait_for(lambda: len(lock._tickets) == len(threads) + 1)
    for thread in threads:
        thread.join(30)
    assert served == [0, 1, 2, 3, 4]
    assert not lock._tickets


def test_one_thread_at_a_time():
    lock, inside, most = FairLock(), [], []

    def run():
        for _ in range(200):
            with lock:
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(most) == 1
    assert len(most) == 800


def test_an_error_inside_frees_it():
    lock = FairLock()
    for _ in range(2):
        with pytest.raises(ValueError, match="inside"), lock:
            raise ValueError("inside")
    assert not lock._tickets
