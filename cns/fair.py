"""A lock for what many share: whoever asked first gets it first, so that nobody who lets go often and asks again at once keeps the others out."""

import threading
from collections import deque


class FairLock:
    """A context manager like `threading.RLock`, also re-entrant, but handed on in the order of asking."""

    def __init__(self):
        self._guard, self._waiting = threading.Lock(), deque()  # (thread, its gate)
        self._owner, self._depth = None, 0

    def __enter__(self):
        me = threading.get_ident()
        with self._guard:
            if self._owner in (None, me):
                self._owner, self._depth = me, self._depth + 1
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append((me, gate))
        try:
            gate.acquire()
        except BaseException:  # an interrupt: nobody may hand it to us any more
            with self._guard:
                waits = (me, gate) in self._waiting
                if waits:
                    self._waiting.remove((me, gate))
            if not waits:
                self.__exit__()
            raise

    def __exit__(self, *_):
        with self._guard:
            self._depth -= 1
            if self._depth:
                return
            self._owner = None
            if self._waiting:
                (self._owner, gate), self._depth = self._waiting.popleft(), 1
                gate.release()
