"""Teaching on HF Jobs: a signed-in person's own account pays for the machine, and `python -m cns teach` runs there.

    concept + session -> the person's exchange repo -> job -> the exchange repo -> a checked session

The job's code is the Space's own repo at one commit, mounted read-only; the one secret that it gets is the person's own token, which
opens what is his and nothing else. So neither the Space's token nor its store are ever within a job's reach, and what a job
leaves is read like any file that a stranger uploads. What runs, for whom and on what is written in the job's labels: a page that
was closed, or a Space that started anew, finds it again.
"""

import io
import os
import re
import secrets
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from huggingface_hub import HfApi, JobInfo, Volume, get_token
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from ..base import STARTER
from ..concept import Concept
from ..images import square
from ..session import Session
from .archive import pack, unpack
from .exchange import SESSION, Exchange, refused, status_of
from .hub import REPO, HubRefuses, limited
from .people import People, Person
from .versions import content_of

NAME = "cns-studio-jobs"  # of the exchange repo in the person's account
CODE = "/cns-studio"  # where a job has the Space's repo
LIMIT = 3600  # seconds that a job may take
SHORTEST = 600  # seconds that a sign-in has to last still
POLL = 3.0  # seconds between looks at a job
TRIES = 10  # looks in a row that fail
SHOWN, LONGEST = 12, 500  # newest lines of the log, and of each its first characters
FOUND = 50  # newest jobs that are looked through for one that was left
APP, SHELL = "cns-studio", "_shell"  # no session can be called so
NOT_THERE = re.compile("gradio|spaces|matplotlib")  # requirements that teaching has no use for
ENDED = ("COMPLETED", "CANCELED", "ERROR", "DELETED")


@dataclass(frozen=True)
class Machine:
    """A flavour of HF Jobs, `price` in USD for an hour."""

    name: str
    label: str
    price: float
    gpus: int

    @property
    def words(self) -> str:
        return f"{self.label}: ${self.price:.2f} an hour, at most ${self.price * LIMIT / 3600:.2f}"


@dataclass(frozen=True)
class Job:
    """A teaching under way: of `concept`, for the person's session of the name `session`, whose content was `before`."""

    id: str
    url: str
    session: str
    concept: str
    folder: str  # in the exchange repo
    before: str

    @classmethod
    def of(cls, info: JobInfo) -> "Job":
        labels = info.labels or {}
        return cls(info.id, info.url, *(labels.get(n, "") for n in ("session", "concept", "folder", "before")))


@dataclass(frozen=True)
class Report:
    """How a job stands: its stage in the Hub's words, what the Hub says of it, seconds that it runs, and the newest lines of its log."""

    stage: str
    message: str = ""
    seconds: int = 0
    lines: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        return self.stage in ENDED

    def why(self) -> str:
        """Of a job that ended without a result: what happened and what to do."""
        if self.stage == "CANCELED":
            return "the job was cancelled: nothing of it was kept"
        if self.seconds >= LIMIT or re.search("time.?out|timed out|deadline", self.message, re.IGNORECASE):
            return f"the job took longer than {LIMIT // 60} minutes and was ended: choose fewer steps or a faster machine"
        said = [line.split(": ", 1)[1] for line in self.lines if re.match("cns teach: .", line)]
        return f"the job failed: {(said or [self.message or 'its log says why'])[-1]}"


class Jobs:
    """The jobs of `person`, who shows `token`; their code is that of the Space `space`. `left`: seconds that the token is valid."""

    def __init__(self, person: Person, token: str, space: str, left: float = LIMIT + SHORTEST, api: HfApi | None = None):
        self.person, self.space, self.left, self._token = person, space, left, token
        self._api = HfApi(token=token) if api is None else api

    @property
    def api(self) -> HfApi:
        return limited(self._api)

    def exchange(self, folder: str) -> Exchange:
        return Exchange(f"{self.person.name}/{NAME}", folder, self._api)

    def machines(self) -> list[Machine]:
        """What can be rented with a GPU, the cheapest first."""
        try:
            offered = self.api.list_jobs_hardware()
        except Exception as error:
            raise explained(error) from None
        hours = {"second": 3600, "minute": 60, "hour": 1}
        gpus = [(h, h.accelerator) for h in offered if h.accelerator and h.accelerator.type == "gpu" and h.unit_label in hours]
        found = [Machine(h.name, f"{h.pretty_name} ({a.vram})", h.unit_cost_usd * hours[h.unit_label], int(a.quantity)) for h, a in gpus]
        return sorted(found, key=lambda m: m.price)

    def begin(self, base, session: Session | None, concept: Concept, machine: str, *, name: str, steps: int, seed: int = 0, more: bool = False) -> Job:
        """Teach `concept` to what the person's session `name` knows; checked by the caller. Raises ValueError or OSError when there is no job."""
        rented = {m.name: m for m in self.machines()}.get(machine)
        if not rented:
            raise ValueError(f"`{str(machine)[:40]}` is no machine that HF Jobs rents with a GPU: choose one from the list")
        seconds = int(min(LIMIT, self.left - SHORTEST / 2))
        if seconds < SHORTEST:
            raise ValueError("your sign-in ends too soon for a job: sign out and in again first")
        of_base, volume = source(base), self._code()
        exchange = self.exchange(f"{name}/{secrets.token_hex(8)}")
        pictures = {f"{i}.png": _png(square(p, base.size)) for i, p in enumerate(concept.images)}
        exchange.make()
        exchange.put({**pictures, **({SESSION: pack(session)} if session and session.concepts else {})})
        launch = ["accelerate", "launch", "-m", "cns"] if rented.gpus > 1 else ["python", "-m", "cns"]
        # one argument each: the client looks for files of an argument's name on this machine, and would send them along
        words = [f"--name={concept.name}", f"--class={concept.class_word}", f"--steps={steps}", f"--seed={seed}", *(["--more"] if more else [])]
        command = [*launch, "teach", *of_base, f"--session={exchange.address}", *words, *(f"{exchange.address}/{p}" for p in pictures)]
        labels = {"app": APP, "session": name, "concept": concept.name, "folder": exchange.folder.split("/")[-1], "before": content_of(session)}
        try:
            info = self.api.run_uv_job(
                command[0], script_args=command[1:], dependencies=dependencies(), env=environment(), secrets={"HF_TOKEN": self._token},
                flavor=machine, timeout=seconds, labels=labels, volumes=[volume], namespace=self.person.name,
            )  # fmt: skip
        except Exception as error:
            with suppress(OSError):
                exchange.clear()
            raise explained(error) from None
        return Job.of(info)

    def left_over(self, name: str) -> Job | None:
        """The newest job for the session `name` that runs, or whose result nobody took."""
        try:
            found = islice(self.api.list_jobs(labels={"app": APP, "session": name}, namespace=self.person.name), FOUND)
            mine = [i for i in found if (i.labels or {}).get("app") == APP and (i.labels or {}).get("session") == name]
            if not mine:
                return None
            folders = {e.path.split("/")[-1] for e in self.api.list_repo_tree(f"{self.person.name}/{NAME}", name, repo_type="dataset")}
        except (EntryNotFoundError, RepositoryNotFoundError):
            return None
        except Exception as error:
            raise explained(error) from None
        jobs = [Job.of(i) for i in sorted(mine, key=lambda i: str(i.created_at), reverse=True)]
        return next((j for j in jobs if j.folder in folders), None)

    def watch(self, job: Job, every: float = POLL):
        """Yields a `Report` every so many seconds until the job has ended. Raises OSError when the Hub says no more; the job goes on then."""
        log = _Log(self.api, job, self.person.name, every)
        failures = 0
        try:
            while True:
                try:
                    info = self.api.inspect_job(job_id=job.id, namespace=self.person.name)
                    failures = 0
                except Exception as error:
                    failures += 1
                    if status_of(error) in (401, 403, 404) or failures >= TRIES:
                        raise explained(error) from None
                    time.sleep(every)
                    continue
                stage = str(getattr(info.status.stage, "value", info.status.stage))
                if stage in ENDED:
                    log.thread.join(10 * every)  # its last lines
                seconds = info.durations.running_secs if info.durations else None
                report = Report(stage, info.status.message or "", seconds or 0, tuple(log.lines))
                yield report
                if report.ended:
                    return
                time.sleep(every)
        finally:
            log.over.set()

    def cancel(self, job: Job) -> None:
        try:
            self.api.cancel_job(job_id=job.id, namespace=self.person.name)
        except Exception as error:
            raise explained(error) from None

    def result(self, job: Job, base) -> Session:
        """What a job that is completed has taught. Raises ValueError for anything that is not a session of `base` with the concept in it."""
        content = self.exchange(f"{job.session}/{job.folder}").read(SESSION)
        if content is None:
            raise ValueError(f"the job left nothing of `{job.concept[:40]}`, or another page took it already: reload this page")
        session = unpack(content, base)
        if content_of(session) == job.before or job.concept not in {c.name for c in session.concepts}:
            raise ValueError(f"the job ended without having taught `{job.concept[:40]}`: its log says why")
        return session

    def forget(self, job: Job) -> None:
        """Remove what was exchanged with it."""
        self.exchange(f"{job.session}/{job.folder}").clear()

    def _code(self) -> Volume:
        """The Space's repo at its newest commit, which the person has to be able to read."""
        try:
            sha = self.api.repo_info(self.space, repo_type="space").sha
        except RepositoryNotFoundError:
            raise HubRefuses(f"a job of yours cannot read the code of the Space `{self.space}`: its owner has to make it public, or you duplicate it") from None
        except Exception as error:
            raise explained(error) from None
        return Volume(type="space", source=self.space, mount_path=CODE, revision=sha, read_only=True)


def kept(store, key, base, job: Job, result: Session) -> str:
    """Save what `job` taught as a new version of `key`; says what came of it.

    Where the session changed meanwhile it stays as it is, and the result is in its history.
    """
    now = store.load(key, base)
    if content_of(now) == content_of(result):
        return f"<{job.concept}> was taught."  # another page took it in
    if content_of(now) == job.before:
        store.save(key, result, "teach", job.concept, now)
        return f"<{job.concept}> was taught."
    if now is None:
        return "This session was deleted while the job ran: nothing of it was kept."
    history = store.history(key)
    earlier = next((v.name for v in history if v.content == job.before), None)
    store.save(key, result, "teach", job.concept, store.load(key, base, earlier) if earlier else None)
    store.save(key, now, "back", "", result)
    return f"<{job.concept}> was taught, but this session changed while the job ran, so it stays as it is now: bring `teach {job.concept}` back from its history, or merge the two."


def teach_there(base, session: Session | None, concept: Concept, machine: str, space: str | None, say, **settings) -> Session:
    """Teach on a machine that this computer's user rents with his own token; `say` gets what is new. Ctrl-C cancels the job."""
    if space is None or not REPO.fullmatch(space):
        raise ValueError("name the Space whose code a job is to run: `--space owner/name`, or set `CNS_SPACE`")
    token = get_token()
    person = People().who(token)
    if not token or not person:
        raise ValueError("a job needs a token of yours that may run jobs and make repos: set `HF_TOKEN`, or run `hf auth login`")
    jobs, told = Jobs(person, token, space), ""
    job = jobs.begin(base, session, concept, machine, name=SHELL, **settings)
    try:
        say(job.url)
        for report in jobs.watch(job):
            if told != (told := "\n".join(report.lines[-1:]) or report.stage):
                say(told)
        if report.stage != "COMPLETED":
            raise OSError(report.why())
        return jobs.result(job, base)
    except KeyboardInterrupt:
        jobs.cancel(job)
        raise
    finally:
        with suppress(OSError):
            jobs.forget(job)


class _Log:
    """Reads a job's log in a thread: the newest lines, until the job has ended or `over` is set."""

    def __init__(self, api: HfApi, job: Job, namespace: str, every: float):
        self.lines: deque[str] = deque(maxlen=SHOWN)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._read, args=(api, job, namespace, every), name="job-log", daemon=True)
        self.thread.start()

    def _read(self, api, job, namespace, every) -> None:
        while not self.over.is_set():
            try:
                lines: deque[str] = deque(maxlen=SHOWN)
                for text in api.fetch_job_logs(job_id=job.id, namespace=namespace, follow=True):
                    if self.over.is_set():
                        return
                    lines.extend(line[:LONGEST] for part in re.split("[\r\n]", text) if (line := part.strip()))
                    self.lines = lines
                return
            except Exception:  # there is no log yet, or the line was cut: it is all sent again
                self.over.wait(every)


def source(base) -> list[str]:
    """The arguments by which a job loads `base`. Raises ValueError for one that lies only on this machine."""
    if REPO.fullmatch(base.id):
        return [f"--base={base.id}"]
    if base.id == "cns-starter" and STARTER.is_dir():
        return []
    raise ValueError(f"base `{base.id}` lies in a folder of this app's machine, where a job cannot read it: only a base from the Hub can be taught on HF Jobs")


def dependencies() -> list[str]:
    """This package's requirements, for a job."""
    lines = (Path(__file__).parents[2] / "requirements.txt").read_text().splitlines()
    return [line for line in map(str.strip, lines) if line and not NOT_THERE.match(line)]


def environment() -> dict[str, str]:
    """What a job is told beside its command."""
    clip = os.environ.get("CNS_CLIP", "")
    return {"PYTHONPATH": CODE, "PYTHONUNBUFFERED": "1", **({"CNS_CLIP": clip} if REPO.fullmatch(clip) else {})}


def explained(error: Exception) -> OSError:
    """What the Hub's answer means, and what the person can do, in one sentence without a token."""
    said = {
        401: "the Hub does not accept your token, or not any more: sign out and in again (in a shell, set `HF_TOKEN`)",
        402: "your account has no credits for HF Jobs: add some at huggingface.co/settings/billing, or teach here",
        403: "this app may not run jobs in your account: sign out and in again and allow it (in a shell, give `HF_TOKEN` the right to run jobs)",
        404: "the Hub does not know this job, or not any more",
    }
    status = status_of(error)
    return HubRefuses(said[status]) if status in said else refused(error, NAME)


def _png(picture) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
