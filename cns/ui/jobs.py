"""Teaching on HF Jobs, in the Teach tab, for who signed in: choose a machine, watch its log, cancel; the result is in the session.

A job needs no page: one that was left is found again when its session's panel is opened. What it taught goes to the store first, and
from there to the page, if that still shows the same session.
"""

from contextlib import suppress

import gradio as gr

from ..concept import Concept, check
from ..images import load_images
from ..store.jobs import LIMIT, Job, Jobs, Report, kept
from ..store.versions import Owned, is_key
from . import html
from .common import Shared, mark, showing, spoken
from .signin import Door

CSS = """
.cns-log { max-height: 15rem; overflow: auto; margin: .3rem 0 0; font-size: .78rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""
ABOUT = (
    "More steps or larger models than the time here allows: your own account rents a machine, and pays for it by the minute. Your pictures and this session go there through a private "
    f"dataset of yours, `cns-studio-jobs`, which is emptied afterwards. A job ends after {LIMIT // 60} minutes at the latest; you may close this page meanwhile."
)
STAGES = {"SCHEDULING": "Waiting for a machine", "RUNNING": "Teaching", "COMPLETED": "Taking the result in"}
WATCHED = 8  # jobs at a time: each holds one of the server's threads; others are watched when one of these has ended
UNDER_WAY = "a job teaches this session already: close this panel and open it again to see it"


def build(base, store, shared: Shared, door: Door, space: str, lesson: list) -> None:
    """Layout first, wiring below; `lesson`: the components of pictures, name, class word, steps and seed."""
    desk = Desk(base, store, door, space)
    with gr.Accordion("Teach on HF Jobs", open=False, visible=False, elem_id="jobs") as panel:
        gr.Markdown(ABOUT)
        machine = gr.Dropdown(label="Machine", choices=[], elem_id="machine")
        more = gr.Checkbox(False, label="More pictures of a thing that it knows", elem_id="job-more")
        with gr.Row():
            start = gr.Button("Teach on HF Jobs", size="sm", elem_id="job-start")
            cancel = gr.Button("Cancel the job", size="sm", variant="stop", visible=False, elem_id="job-cancel")
        said = gr.HTML(elem_id="job-said")
    job, arrived = gr.State(None), gr.State(None)

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    watching = {**quiet, "concurrency_id": "jobs", "concurrency_limit": WATCHED}
    shared.key.change(desk.offered, [shared.key], [panel], queue=False, **quiet)
    panel.expand(desk.machines, [job, shared.key], [machine, job], api_visibility="private")
    start.click(desk.send, [*lesson, machine, more, shared.session, shared.key], [job], show_progress_on=[said], api_visibility="private")
    job.change(desk.follow, [job, shared.key], [job, start, cancel, said, arrived], **watching)
    cancel.click(desk.quit_job, [job, shared.key], None, **quiet)
    arrived.change(shared.keyed(desk.show_result), [arrived, shared.key], shared.states, **quiet)


class Desk:
    """What the panel's controls do. `text` is what the page holds for its session."""

    def __init__(self, base, store, door: Door, space: str):
        self.base, self.store, self.door, self.space = base, store, door, space

    def _jobs(self, text, request) -> tuple[Owned, Jobs]:
        key, person, token, left = self.door.account(text, request)
        return key, Jobs(person, token, self.space, left)

    def offered(self, text):
        """To whom works on a named session."""
        return gr.update(visible=self.door.takes(text) and not is_key(text))

    @spoken
    def machines(self, job, text, request: gr.Request):
        """(what can be rented, a job that was left)"""
        key, jobs = self._jobs(text, request)
        choices = [(m.words, m.name) for m in jobs.machines()]
        return gr.update(choices=choices, value=choices[0][1] if choices else None), job or jobs.left_over(key.name)

    @spoken
    def send(self, files, name, word, steps, seed, machine, more, session, text, request: gr.Request):
        """The job."""
        key, jobs = self._jobs(text, request)
        concept = Concept(name, word, load_images([path for path, _ in files or []]))
        check(self.base, session, concept, more)
        if jobs.left_over(key.name):
            raise ValueError(UNDER_WAY)
        return jobs.begin(self.base, session, concept, machine, name=key.name, steps=int(steps), seed=int(seed or 0), more=more)

    @spoken
    def follow(self, job, text, request: gr.Request):
        """Yields (the job while it lasts, both buttons, what is said, a mark when its result is in the store)."""
        same = gr.skip()
        if job is None:
            yield (same,) * 5
            return
        idle = None, gr.update(interactive=True), gr.update(visible=False)
        try:
            key, jobs = self._jobs(text, request)
            for report in jobs.watch(job):
                yield same, gr.update(interactive=False), gr.update(visible=not report.ended), shown(job, report), same
            words = end(self.store, self.base, Owned(key.user, job.session), jobs, job, report)
        except Exception:
            yield *idle, same, same
            raise
        yield *idle, html.note(words) + log(report), mark(job.session)

    @spoken
    def quit_job(self, job, text, request: gr.Request):
        if job:
            self._jobs(text, request)[1].cancel(job)

    def show_result(self, arrived, key):
        """The session as it is now, where the page shows the one that was taught."""
        if not arrived or not isinstance(key, Owned) or key.name != arrived[1]:
            return (gr.skip(),) * 4
        return showing(self.store.load(key, self.base), self.base, "saved")


def end(store, base, key: Owned, jobs: Jobs, job: Job, report: Report) -> str:
    """Keep what a job that has ended taught, and remove what was exchanged; says what came of it."""
    if report.stage != "COMPLETED":
        words = report.why()
    else:
        try:
            result = jobs.result(job, base)
        except ValueError as error:  # no session, or no sound one
            words = str(error)
        else:
            words = kept(store, key, base, job, result)
    with suppress(OSError):
        jobs.forget(job)
    return f"{words[:1].upper()}{words[1:]}"


def shown(job: Job, report: Report) -> str:
    """How it stands, with a link to its page on the Hub."""
    link = f'<a href="{html.esc(job.url)}" target="_blank" rel="noopener">on the Hub</a>'
    return f'<p class="cns-note" role="status">{STAGES.get(report.stage, "Ending")} &lt;{html.esc(job.concept)}&gt; {link}, {report.seconds // 60} min so far.</p>' + log(report)


def log(report: Report) -> str:
    lines = html.esc("\n".join(report.lines))
    return f'<pre class="cns-log" tabindex="0">{lines}</pre>' if lines else ""
