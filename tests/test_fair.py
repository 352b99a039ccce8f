import threading

import pytest

from cns.fair import FairLock


def waiting(lock, count):
    """Returns once `count` threads wait for `lock`."""
    for _ in range(10_000):
        if len(lock._waiting) == count:
            return
        threading.Event().wait(0.001)
    raise AssertionError("nobody waits")


def test_it_is_handed_on_in_the_order_of_asking():
    lock, order, threads = FairLock(), [], []

    def work(i):
        with lock:
            order.append(i)

    with lock:
        for i in range(5):
            threads.append(threading.Thread(target=work, args=(i,)))
            threads[-1].start()
            waiting(lock, i + 1)
    with lock:  # asks again at once, and yet comes last
        order.append("again")
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4, "again"]


def test_only_one_is_inside_and_its_holder_may_enter_again():
    lock, inside, most = FairLock(), [0], []

    def work():
        for _ in range(200):
            with lock, lock:
                inside[0] += 1
                most.append(inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for step in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            step(thread)
    assert max(most) == 1 and len(most) == 800 and lock._owner is None and lock._depth == 0


def test_an_error_inside_lets_go():
    lock = FairLock()
    with pytest.raises(KeyError):
        with lock:
            raise KeyError
    with lock:
        assert lock._depth == 1


@pytest.mark.parametrize("handed", [False, True])
def test_who_is_interrupted_while_waiting_holds_nobody_up(monkeypatch, handed):
    lock = FairLock()

    class Gate:
        """A lock whose second `acquire`, the wait, is interrupted; `handed`: just after it was handed over."""

        def __init__(self):
            self.times = 0

        def acquire(self):
            self.times += 1
            if self.times == 2:
                if handed:
                    lock.__exit__()  # the holder lets go
                raise KeyboardInterrupt

        def release(self):
            """Nobody waits any more."""

    lock._owner, lock._depth = -1, 1  # somebody else
    monkeypatch.setattr("cns.fair.threading.Lock", Gate)
    with pytest.raises(KeyboardInterrupt):
        with lock:
            raise AssertionError("was let in")
    assert not lock._waiting and (lock._owner, lock._depth) == ((None, 0) if handed else (-1, 1))
