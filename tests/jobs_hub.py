"""The stand-in Hub with HF Jobs: a job that is submitted really runs, as a process on this machine that has what the job was given and nothing else.

Tokens are those that a sign-in gives: `hf_oauth_ann` acts for ann with the scopes in `scopes`, in her own repos.
"""

import json
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from hub import Handler, Hub, Refused

SCOPES = {"jobs", "contribute-repos"}
MACHINES = [("cpu-basic", "CPU Basic", None, 167), ("a10g-largex2", "2x Nvidia A10G", "2", 50000), ("t4-small", "Nvidia T4 - small", "1", 6667)]
UTC = timezone.utc  # noqa: UP017  Python 3.10 has no datetime.UTC


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass
class Run:
    """A submitted job."""

    id: str
    owner: str
    spec: dict
    stage: str = "SCHEDULING"
    message: str = ""
    lines: list[str] = field(default_factory=list)
    process: subprocess.Popen | None = None
    began: float = field(default_factory=time.time)

    @property
    def ended(self) -> bool:
        return self.stage not in ("SCHEDULING", "RUNNING")

    def about(self) -> dict:
        spec, seconds = self.spec, int(time.time() - self.began)
        return {
            "id": self.id, "createdAt": stamp(self.began), "dockerImage": spec.get("dockerImage"), "command": spec["command"],
            "arguments": [], "environment": spec["environment"], "secrets": {}, "flavor": spec["flavor"], "labels": spec.get("labels"), "volumes": spec.get("volumes"),
            "status": {"stage": self.stage, "message": self.message or None}, "durations": {"schedulingSecs": 0, "runningSecs": seconds, "totalSecs": seconds},
            "owner": {"id": "1", "name": self.owner, "type": "user"},
        }  # fmt: skip


class JobsHub(Hub):
    def __init__(self):
        super().__init__(JobsHandler)
        self.jobs: dict[str, Run] = {}
        self.scopes: dict[str, set] = {}  # of a token, where not all
        self.credits = True
        self.instead: list[str] | None = None  # what runs in place of the command

    def submit(self, owner: str, spec: dict) -> Run:
        run = Run(secrets.token_hex(12), owner, spec)
        self.jobs[run.id] = run
        threading.Thread(target=self.run, args=(run,), daemon=True).start()
        return run

    def run(self, run: Run) -> None:
        with tempfile.TemporaryDirectory(prefix="job-") as folder:
            env = {**run.spec["environment"], **run.spec.get("secrets", {})}
            for i, volume in enumerate(run.spec.get("volumes", [])):
                at = Path(folder) / str(i)
                commit = next(c for c in self.repos[volume["source"]] if c.oid == volume["revision"])
                for path, (content, _) in commit.tree.items():
                    (at / path).parent.mkdir(parents=True, exist_ok=True)
                    (at / path).write_bytes(content)
                env = {k: v.replace(volume["mountPath"], str(at)) for k, v in env.items()}
            machine = {"PATH": "/usr/bin:/bin", "HOME": folder, "HF_HOME": f"{folder}/hf", "HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
            if not run.ended:
                run.process = subprocess.Popen(
                    self.instead or local(run.spec["command"]), env={**machine, **env}, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
                run.stage = "RUNNING"
                late = threading.Timer(run.spec["timeoutSeconds"], self.end, (run, "ERROR", "Job timeout"))
                late.start()
                run.lines += ["===== Job started at now ====="]
                for line in run.process.stdout:
                    run.lines.append(line.rstrip("\n"))
                failed = run.process.wait()
                late.cancel()
                if not run.ended:
                    run.stage, run.message = ("ERROR", f"Job failed with exit code: {failed}") if failed else ("COMPLETED", "")

    def end(self, run: Run, stage: str, message: str = "") -> None:
        run.stage, run.message = stage, message
        if run.process:
            run.process.kill()


def local(command: list[str]) -> list[str]:
    """The command without `uv run --with ...`: its program on this machine."""
    assert command[:2] == ["uv", "run"]
    rest = command[2:]
    while rest[0] == "--with":
        rest = rest[2:]
    return {"python": [sys.executable], "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"]}[rest[0]] + rest[1:]


class JobsHandler(Handler):
    server: JobsHub

    def do_GET(self):
        if found := re.fullmatch("/api/jobs/[^/]+/([^/]+)/logs", urlsplit(self.path).path):
            self.server.seen.append(("GET", self.path))
            self.logs(self.server.jobs[found[1]])
        else:
            self.do()

    def name(self) -> str:
        """Whose token it is."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not re.fullmatch("hf_oauth_[a-z]+", token):
            raise Refused(401, "", "Invalid credentials in Authorization header")
        return token.removeprefix("hf_oauth_")

    def scoped(self) -> set:
        return self.server.scopes.get(f"hf_oauth_{self.name()}", SCOPES)

    def right(self) -> str:
        return "write" if "contribute-repos" in self.scoped() else "read"

    def allow(self, repo: str, write: bool) -> None:
        if repo not in self.server.repos or (self.server.private[repo] and repo.split("/")[0] != self.name()):
            raise Refused(404, "RepoNotFound", "Repository not found")
        if write and (self.right() != "write" or repo.split("/")[0] != self.name()):
            raise Refused(403, "", "Forbidden: you need write access")

    def create(self, wanted: dict):
        if wanted.get("organization") != self.name():
            raise Refused(403, "", "You don't have the rights to create a dataset under this namespace")
        return super().create(wanted)

    def route(self, path: str, body: bytes):
        if path == "/api/jobs/hardware":
            return 200, [machine(*m) for m in MACHINES], {}
        if found := re.fullmatch("/api/jobs/([^/]+)(?:/([^/]+))?(/cancel)?", path):
            return self.job(*found.groups(), body)
        if found := re.fullmatch("/api/spaces/([^/]+/[^/]+)", path):
            self.allow(found[1], write=False)
            return self.info(found[1])
        return super().route(path, body)

    def job(self, owner: str, id: str | None, cancel: str | None, body: bytes):
        if owner != self.name() or "jobs" not in self.scoped():
            raise Refused(403, "", "Forbidden: missing permissions")
        if id is None and self.command == "POST":
            if not self.server.credits:
                raise Refused(402, "", "Pre-paid credit balance is insufficient")
            return 200, self.server.submit(owner, json.loads(body)).about(), {}
        if id is None:
            wanted = dict(w.split("=") for w in parse_qs(urlsplit(self.path).query).get("label", []))
            return 200, [r.about() for r in self.server.jobs.values() if r.owner == owner and wanted.items() <= (r.spec.get("labels") or {}).items()], {}
        run = self.server.jobs.get(id)
        if run is None or run.owner != owner:
            raise Refused(404, "", "Job not found")
        if cancel:
            self.server.end(run, "CANCELED")
        return 200, run.about(), {}

    def logs(self, run: Run) -> None:
        """Every line so far, and those to come."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        sent = 0
        while True:
            ended = run.ended
            for line in run.lines[sent:]:
                self.wfile.write(f"data: {json.dumps({'data': line, 'timestamp': stamp(time.time())})}\n\n".encode())
                sent += 1
            self.wfile.flush()
            if ended:
                break
            time.sleep(0.02)
        self.close_connection = True


def machine(name: str, pretty: str, gpus: str | None, cost: int) -> dict:
    gpu = {"type": "gpu", "model": "T4", "quantity": gpus, "vram": "16 GB", "manufacturer": "Nvidia"} if gpus else None
    return {"name": name, "prettyName": pretty, "cpu": "4 vCPU", "ram": "15 GB", "accelerator": gpu, "unitCostMicroUSD": cost, "unitCostUSD": cost / 1e6, "unitLabel": "minute"}
