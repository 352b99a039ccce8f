"""A crowd on one process: visitors who draw and teachers who teach at once. Who waits how long, does anything mix, grow or stay behind?

Every visitor knows, from before the crowd came, which picture is his; every teacher which concepts are his. The hour after which
files go is not waited for: the app's own clean-up runs as if it were over.
"""

import hashlib
import resource
import secrets
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gradio_client import Client, handle_file

from ..base import load_base
from ..concept import Concept
from ..store import LocalStore
from . import ready_concepts, row


@dataclass(frozen=True)
class Crowd:
    """How many come and what they ask for."""

    visitors: int = 20  # who draw, one picture after another
    teachers: int = 3  # who teach until the last visitor is done
    requests: int = 500  # pictures in all
    steps: int = 4  # denoising steps of a picture
    teach_steps: int = 20  # training steps of a teaching

    def __post_init__(self):
        for name, low, high in (("visitors", 1, 100), ("teachers", 0, 20), ("requests", self.visitors, 100_000), ("steps", 1, 200), ("teach_steps", 1, 5000)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"`{name}` is {getattr(self, name)}: choose {low} to {high}")


@dataclass
class Outcome:
    """What happened; times in seconds, memory in MiB."""

    waits: list[list[float]] = field(default_factory=list)  # from asking to having, of each visitor
    taught: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)  # pictures or concepts that were not the asker's, and errors
    memory: list[float] = field(default_factory=list)  # the process's peak after each picture
    files: int = 0  # that the app left while it was used
    after: list[Path] = field(default_factory=list)  # and after the clean-up


def load(source: str | None, crowd: Crowd = Crowd()) -> None:
    """Print what a crowd meets on `source` (None: the starter)."""
    out = run(load_base(source), crowd)
    waits, means = sorted(w for v in out.waits for w in v), [statistics.mean(v) for v in out.waits]
    row(f"{crowd.visitors} visitors and {crowd.teachers} teachers: pictures", len(waits), "pictures")
    row("teachings beside them", out.taught, "teachings")
    row("pictures a minute", 60 * len(waits) / out.seconds, "a minute")
    row("a visitor waits for a picture: median", statistics.median(waits), "s")
    row("95 of 100 at most", waits[int(0.95 * (len(waits) - 1))], "s")
    row("the longest", waits[-1], "s")
    row("the mean wait of the least lucky visitor over the luckiest's", max(means) / min(means), "times")
    row("pictures and concepts that were somebody else's, and errors", len(out.wrong), "of all")
    row("peak memory after a fifth of the pictures", out.memory[len(out.memory) // 5], "MiB")
    row("peak memory at the end", out.memory[-1], "MiB")
    row("files that the app left while it was used", out.files, "files")
    row("files left an hour later", len(out.after), "files")
    for problem in out.wrong[:5]:
        print(problem)


def run(base, crowd: Crowd) -> Outcome:
    """Serve `base` from this process and let the crowd in."""
    with tempfile.TemporaryDirectory() as folder:
        from ..ui import build, temp  # here, as the app is heavy and only this bench serves one

        demo = build(base, LocalStore(Path(folder) / "store"))
        demo.queue(max_size=2 * (crowd.visitors + crowd.teachers), default_concurrency_limit=8)
        demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        own = set(temp.left())  # the page's pictures
        try:
            out = _visited(base, demo.local_url, crowd, Path(folder))
            out.files = len({*temp.left()} - own)
            temp.sweep(demo, age=-1)
            out.after = sorted({*temp.left()} - own)
            return out
        finally:
            demo.close()


def _visited(base, url: str, crowd: Crowd, folder: Path) -> Outcome:
    concept = ready_concepts(1)[0]
    pictures, out, lock = _saved(concept, folder), Outcome(), threading.Lock()
    word = base.class_words[0]
    host = Client(url, verbose=False, download_files=False)
    key = host.predict(api_name="/new_session")
    _teach(host, key, "first", word, pictures, crowd)
    asks = [{"prompt": f"a <first> {word}" if i % 2 else f"a {word}", "key": key if i % 2 else "", "seed": i} for i in range(crowd.visitors)]
    wanted = [_drawn(host, crowd, ask) for ask in asks]
    done = threading.Event()

    def visit(i):
        client, mine = Client(url, verbose=False, download_files=False), out.waits[i]
        for _ in range(crowd.requests // crowd.visitors + (i < crowd.requests % crowd.visitors)):
            start = time.monotonic()
            got = _drawn(client, crowd, asks[i])
            mine.append(time.monotonic() - start)
            with lock:
                out.memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
                out.wrong += [f"visitor {i} got another picture than his own"] * (got != wanted[i])

    def teach(i):
        client, own, more = Client(url, verbose=False, download_files=False), secrets.token_hex(16), False
        while not done.is_set():
            known = _teach(client, own, f"thing{i}", word, pictures, crowd, more)
            more = True
            with lock:
                out.taught += 1
                out.wrong += [f"teacher {i} found {known} in his session"] * (known != [f"thing{i}"])

    def guarded(work: Callable, i: int):
        try:
            work(i)
        except Exception as error:  # whatever it is, it is what a visitor would see
            with lock:
                out.wrong.append(f"{work.__name__} {i}: {error!r}")

    out.waits = [[] for _ in asks]
    visiting = [threading.Thread(target=guarded, args=(visit, i)) for i in range(crowd.visitors)]
    teaching = [threading.Thread(target=guarded, args=(teach, i)) for i in range(crowd.teachers)]
    start = time.monotonic()
    for thread in teaching + visiting:
        thread.start()
    for thread in visiting:
        thread.join()
    out.seconds = time.monotonic() - start
    done.set()
    for thread in teaching:
        thread.join()
    return out


def _saved(concept: Concept, folder: Path) -> list[Path]:
    paths = [folder / f"{i}.png" for i in range(len(concept.images))]
    for path, image in zip(paths, concept.images):
        image.save(path)
    return paths


def _teach(client: Client, key: str, name: str, word: str, pictures: list[Path], crowd: Crowd, more: bool = False) -> list[str]:
    """Names of what the session of `key` knows then."""
    images = [handle_file(p) for p in pictures]
    known = client.predict(key=key, name=name, class_word=word, images=images, steps=crowd.teach_steps, more=more, api_name="/teach")
    return [c["name"] for c in known["concepts"]]


def _drawn(client: Client, crowd: Crowd, ask: dict) -> str:
    """Hash of the picture that the app draws."""
    files = client.predict(**ask, steps=crowd.steps, api_name="/generate")
    return hashlib.sha256(urllib.request.urlopen(files[0]["url"], timeout=600).read()).hexdigest()
