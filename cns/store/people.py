"""A token that somebody shows in, out who he is, by the Hub's own word."""

import hashlib
import re
import threading
import time
from dataclasses import dataclass

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from .hub import HubRefuses, limited

KNOWN = 600.0  # seconds for which an answer is believed
MOST = 10_000  # answers kept


@dataclass(frozen=True)
class Person:
    """A user of the Hub; `id` stays the same when he calls himself otherwise."""

    id: str
    name: str


class People:
    """Asks the Hub, and remembers its answers for a while, as it is rate limited; tokens are remembered by their SHA-256."""

    def __init__(self, api: HfApi | None = None, known: float = KNOWN):
        self._api, self._known = api or HfApi(), known
        self._answers: dict[str, tuple[float, Person | None]] = {}
        self._lock = threading.Lock()

    def who(self, token: str | None) -> Person | None:
        """Whose token it is; None for one that the Hub does not know. Raises OSError when the Hub cannot be asked."""
        token = token or ""
        if not re.fullmatch("[!-~]{1,8192}", token):
            return None
        mark = hashlib.sha256(token.encode()).hexdigest()
        with self._lock:
            until, person = self._answers.get(mark, (0.0, None))
        if time.monotonic() < until:
            return person
        person = self._ask(token)
        with self._lock:
            if len(self._answers) >= MOST:
                self._answers.clear()
            self._answers[mark] = time.monotonic() + self._known, person
        return person

    def _ask(self, token: str) -> Person | None:
        try:
            said = limited(self._api).whoami(token)
            return Person(str(said["id"]), str(said["name"])) if said.get("type") == "user" else None
        except Exception as error:  # whatever the network does
            status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else type(error).__name__
            if status in (400, 401, 403):
                return None
            raise HubRefuses(f"the Hub did not say who you are ({status}), so your sessions stay closed: reload this page in a moment") from None
