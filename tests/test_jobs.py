"""Teaching on HF Jobs: the real client over HTTP against the stand-in of `jobs_hub.py`, which runs what was submitted."""

import io
import re
import sys

import pytest
from conftest import MINUTES, NO_BROWSER, picture, taught, tiny_pipeline
from hub import running
from huggingface_hub import HfApi, constants
from jobs_hub import JobsHub
from test_signin import Page, people_id, serve  # noqa: F401  a fixture

import cns
from cns.__main__ import main
from cns.base import Base, Card
from cns.bench import ROOT
from cns.store import LocalStore, jobs, pack
from cns.store.exchange import SESSION, Exchange
from cns.store.hub import HubRefuses
from cns.store.jobs import Jobs, Report, dependencies, kept, source
from cns.store.people import Person
from cns.store.versions import Owned, content_of

SPACE, MODEL = "me/cns-studio", "me/tiny"
ANNS = "ann/cns-studio-jobs"
SLEEP = [sys.executable, "-c", "import time; print('asleep', flush=True); time.sleep(60)"]
DONE = [sys.executable, "-c", "print('done')"]


@pytest.fixture(scope="module")
def base():
    """The tiny base, as one from the Hub."""
    return Base(tiny_pipeline(), Card(MODEL, 32))


@pytest.fixture(scope="module")
def files(base, tmp_path_factory):
    """Repos that the stand-in has from the start: the Space's code, and the base."""
    folder = tmp_path_factory.mktemp("tiny")
    base.pipe.save_pretrained(folder)
    code = {p.relative_to(ROOT).as_posix(): (p.read_bytes(), False) for p in (ROOT / "cns").rglob("*.py")}
    return {SPACE: code, MODEL: {p.relative_to(folder).as_posix(): (p.read_bytes(), True) for p in folder.rglob("*.*") if p.is_file()}}


@pytest.fixture
def hub(monkeypatch, files):
    for name, value in (("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_writer")  # the Space's own
    with running(JobsHub) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        for repo, tree in files.items():
            hub.create(repo, private=False)
            hub.commit(repo, tree, "all")
        yield hub
        for run in hub.jobs.values():
            hub.end(run, "CANCELED")


def jobs_of(hub, name="ann", token=None, **options):
    token = token or f"hf_oauth_{name}"
    return Jobs(Person("1", name), token, SPACE, api=HfApi(endpoint=hub.url, token=token), **options)


def rex() -> cns.Concept:
    return cns.Concept("rex", "dog", [picture("red"), picture("brown")])


def begun(jobs, base, session=None, concept=None, machine="t4-small", **options):
    return jobs.begin(base, session, concept or rex(), machine, name="session-1", **{"steps": 3, **options})


def watched(jobs, job):
    return [*jobs.watch(job, every=0.05)]


def test_a_job_teaches_with_the_persons_own_token_and_its_result_comes_back(hub, base):
    tom = taught(base, cns.Concept("tom", "cat", [picture("gray")]))
    jobs = jobs_of(hub)
    job = begun(jobs, base, tom)
    assert jobs.left_over("session-1") == job and jobs.left_over("holidays") is None
    reports = watched(jobs, job)
    assert [r.stage for r in reports][-1] == "COMPLETED", hub.jobs[job.id].lines
    assert "<rex> taught: " in reports[-1].lines[-1] and any("/3" in line for line in hub.jobs[job.id].lines)
    session = jobs.result(job, base)
    assert session.tokens == ("<tom>", "<rex>") and session.concept("rex").stats["images"] == 2
    assert hub.private[ANNS] and hub.tokens == {"hf_oauth_ann"}
    run = hub.jobs[job.id]
    assert run.spec["secrets"] == {"HF_TOKEN": "hf_oauth_ann"} and "hf_writer" not in str(run.spec) and "hf_oauth" not in str(run.about())
    assert run.spec["volumes"] == [{"type": "space", "source": SPACE, "mountPath": "/cns-studio", "revision": hub.head(SPACE).oid, "readOnly": True}]
    at = f"hub:{ANNS}/session-1/{job.folder}"
    command = ["python", "-m", "cns", "teach", f"--base={MODEL}", f"--session={at}", "--name=rex", "--class=dog", "--steps=3", "--seed=0", f"{at}/0.png", f"{at}/1.png"]
    assert run.spec["command"][-len(command) :] == command and run.spec["timeoutSeconds"] == 3600
    jobs.forget(job)
    jobs.forget(job)
    assert jobs.left_over("session-1") is None and set(hub.head(ANNS).tree) == {".gitattributes", "README.md"}


def test_a_job_is_cancelled_and_says_so(hub, base):
    hub.instead = SLEEP
    jobs, reports = jobs_of(hub), []
    job = begun(jobs, base)
    for report in jobs.watch(job, every=0.05):
        reports.append(report)
        if "asleep" in report.lines:
            jobs.cancel(job)
    assert {r.stage for r in reports[1:]} == {"RUNNING", "CANCELED"} and "nothing of it was kept" in reports[-1].why()


@pytest.mark.parametrize(
    ("what", "said"),
    [("print('cns teach: the disk is full'); exit(2)", "the job failed: the disk is full"), ("exit(3)", "the job failed: Job failed with exit code: 3"),
     ("import time; time.sleep(60)", "took longer than 0 minutes and was ended: choose fewer steps or a faster machine")],
)  # fmt: skip
def test_why_a_job_ended_without_a_result_is_said(hub, base, monkeypatch, what, said):
    monkeypatch.setattr(jobs, "LIMIT", 1 if "sleep" in what else 60)
    monkeypatch.setattr(jobs, "SHORTEST", 0)
    hub.instead = [sys.executable, "-c", what]
    here = jobs_of(hub, left=100)
    assert said in watched(here, begun(here, base))[-1].why()


def test_reports_of_jobs_that_ended():
    assert "choose fewer steps" in Report("ERROR", "Job timed out").why() and "its log says why" in Report("ERROR").why()
    assert Report("DELETED").ended and not Report("SCHEDULING").ended


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda hub: setattr(hub, "credits", False), "has no credits for HF Jobs: add some at huggingface.co/settings/billing"),
        (lambda hub: hub.scopes.update(hf_oauth_ann={"contribute-repos"}), "may not run jobs in your account: sign out and in again and allow it"),
        (lambda hub: hub.scopes.update(hf_oauth_ann={"jobs"}), "allow this app to make repos"),
        (lambda hub: hub.private.update({SPACE: True}), f"cannot read the code of the Space `{SPACE}`"),
        (lambda hub: hub.create(ANNS, private=False), "is public, so everybody could read your pictures"),
        (lambda hub: hub.fail("POST", "/api/jobs/", 500), "answers with error 500"),
        (lambda hub: hub.fail("POST", "/api/jobs/", "cut"), "cannot be reached"),
        (lambda hub: hub.fail("GET", "/hardware", 429), "too many requests"),
        (lambda hub: hub.fail("POST", "/commit/", 500), "answers with error 500"),
    ],
)  # fmt: skip
def test_what_keeps_a_job_from_being_sent_is_said_and_leaves_nothing(hub, base, change, said):
    change(hub)
    with pytest.raises(HubRefuses, match=re.escape(said)) as caught:
        begun(jobs_of(hub), base)
    assert "hf_" not in str(caught.value) and hub.jobs == {}
    assert not [p for p in (hub.head(ANNS).tree if ANNS in hub.repos else {}) if p.startswith("session-1")]


@pytest.mark.parametrize("token", ["hf_wrong", "hf_oauth_bob"])
def test_nobody_runs_or_sees_jobs_with_a_token_that_is_not_his(hub, base, token):
    hub.instead = DONE
    job = begun(jobs_of(hub), base)
    other = jobs_of(hub, token=token)
    for what in (lambda: begun(other, base), lambda: [*other.watch(job, every=0.01)], lambda: other.cancel(job), lambda: other.left_over("session-1"), lambda: other.result(job, base)):
        with pytest.raises(HubRefuses) as caught:
            what()
        assert token not in str(caught.value)


def test_bad_wishes_are_refused_before_anything_is_sent(hub, base, tiny_base):
    for machine in ("cpu-basic", "h900", "", None):
        with pytest.raises(ValueError, match="no machine that HF Jobs rents with a GPU"):
            begun(jobs_of(hub), base, machine=machine)
    with pytest.raises(ValueError, match="your sign-in ends too soon"):
        begun(jobs_of(hub, left=500), base)
    with pytest.raises(ValueError, match="only a base from the Hub"):
        begun(jobs_of(hub), tiny_base)
    assert ANNS not in hub.repos and hub.jobs == {}


def test_a_hub_that_stumbles_is_asked_again_and_one_that_is_gone_is_said(hub, base, monkeypatch):
    hub.instead = DONE
    here = jobs_of(hub)
    job = begun(here, base)
    hub.fail("GET", f"/api/jobs/ann/{job.id}", 500, times=3)
    assert watched(here, job)[-1].stage == "COMPLETED"
    hub.fail("GET", f"/api/jobs/ann/{job.id}", 500, times=50)
    with pytest.raises(HubRefuses, match="error 500"):
        watched(here, job)
    del hub.jobs[job.id]
    hub.faults.clear()
    with pytest.raises(HubRefuses, match="does not know this job"):
        watched(here, job)


def test_what_a_job_leaves_is_read_as_a_strangers_file(hub, base, tiny_base, monkeypatch):
    hub.instead = DONE
    here, good = jobs_of(hub), taught(base, rex())
    job = begun(here, base, taught(base, cns.Concept("tom", "cat", [picture("gray")])))
    exchange = here.exchange(f"session-1/{job.folder}")
    with pytest.raises(ValueError, match="ended without having taught `rex`"):
        here.result(job, base)  # it is what was sent
    other = pack(taught(tiny_base, cns.Concept("rex", "dog", [picture("red")])))
    for content, said in ((b"", "damaged"), (b"\x80\x04pickle", "damaged"), (pack(good)[:-9], "damaged"), (other, "base")):
        exchange.put({SESSION: content})
        with pytest.raises(ValueError, match=said):
            here.result(job, base)
    exchange.put({SESSION: pack(good)})
    assert here.result(job, base).tokens == ("<rex>",)
    monkeypatch.setattr("cns.store.exchange.Exchange.read.__defaults__", (100,))
    with pytest.raises(HubRefuses, match="at most 0 are read"):
        here.result(job, base)
    exchange.clear()
    with pytest.raises(ValueError, match="or another page took it already"):
        here.result(job, base)


def test_an_argument_that_names_a_file_of_the_apps_machine_takes_none_along(hub, base, monkeypatch, tmp_path):
    for name in ("rex", "dog", "3", "0.png", "--class"):
        (tmp_path / name).write_text("secret")
    monkeypatch.chdir(tmp_path)
    hub.instead = DONE
    job = begun(jobs_of(hub), base)
    assert [v["type"] for v in hub.jobs[job.id].spec["volumes"]] == ["space"] and not [p for _, p in hub.seen if "bucket" in p]


def test_machines_with_a_gpu_are_offered_with_their_price_and_several_gpus_teach_together(hub, base):
    here = jobs_of(hub)
    assert [m.words for m in here.machines()] == ["Nvidia T4 - small (16 GB): $0.40 an hour, at most $0.40", "2x Nvidia A10G (16 GB): $3.00 an hour, at most $3.00"]
    hub.instead = DONE
    job = begun(here, base, machine="a10g-largex2", more=True)
    command = hub.jobs[job.id].spec["command"]
    assert command[command.index("accelerate") :][:5] == ["accelerate", "launch", "-m", "cns", "teach"] and "--more" in command
    assert here.left_over("session-1") == job == begun_again(here, job)


def begun_again(here, job):
    """As a Space that was started anew finds it."""
    watched(here, job)
    return here.left_over("session-1")


def test_a_job_gets_the_requirements_of_teaching_alone(monkeypatch):
    names = {re.match("[a-z_]+", d)[0] for d in dependencies()}
    assert {"torch", "diffusers", "transformers", "accelerate", "safetensors", "huggingface_hub"} <= names and not names & {"gradio", "spaces", "matplotlib"}
    monkeypatch.setenv("CNS_CLIP", "openai/clip")
    assert jobs.environment()["CNS_CLIP"] == "openai/clip"
    monkeypatch.setenv("CNS_CLIP", "/home/me/clip")
    assert "CNS_CLIP" not in jobs.environment()


def test_the_starter_is_taught_from_the_spaces_own_files(starter, base):
    assert source(starter) == [] and source(base) == [f"--base={MODEL}"]


def test_what_was_taught_meanwhile_stays_and_the_result_is_in_the_history(base, tmp_path):
    store, key = LocalStore(tmp_path), Owned("1", "session-1")
    tom, max_ = taught(base, cns.Concept("tom", "cat", [picture("gray")])), taught(base, cns.Concept("max", "dog", [picture("brown")]))
    result = taught(base, rex(), tom)
    job = jobs.Job("1", "", "session-1", "rex", "f", content_of(tom))
    store.save(key, tom, "teach", "tom")
    for _ in range(2):  # in two pages
        assert kept(store, key, base, job, result) == "<rex> was taught." and store.load(key, base).tokens == ("<tom>", "<rex>")
    assert len(store.history(key)) == 2
    assert store.undo(key, result, base).tokens == ("<tom>",)
    store.save(key, max_, "upload", "", tom)
    assert "stays as it is now: bring `teach rex` back" in kept(store, key, base, job, result)
    history = store.history(key)
    assert store.load(key, base).tokens == ("<max>",) and [v.what for v in history[:2]] == ["back", "teach rex"]
    assert store.bring_back(key, history[1].name, max_, base).tokens == ("<tom>", "<rex>")
    store.delete(key)
    assert "nothing of it was kept" in kept(store, key, base, job, result) and store.load(key, base) is None


def test_addresses_in_a_dataset_repo_are_checked_and_what_is_missing_is_said(hub, monkeypatch, capsys):
    for bad in ("hub:", "hub:ann", "hub:ann/x", "hub:ann/x/../y", "hub:ann/x/Y Z", "hub:ann/x/a/b/c/d/e"):
        with pytest.raises(ValueError, match="write `hub:owner/name/folder`"):
            Exchange.at(bad)
    monkeypatch.setenv("HF_TOKEN", "hf_oauth_ann")
    Exchange.at(f"hub:{ANNS}/a").make()
    assert main(["teach", "--session", f"hub:{ANNS}/a", "--name", "rex", "--class", "dog", f"hub:{ANNS}/a/0.png"]) == 2
    assert "there is no file `hub:ann/cns-studio-jobs/a/0.png`" in capsys.readouterr().err


@pytest.fixture
def page(serve, base, hub, tmp_path):  # noqa: F811
    """Ann's page of the app on a Space, and the pictures in it."""
    page = Page(serve(LocalStore(tmp_path), base, space=SPACE))
    page.headers = {"Cookie": page.demo.cookie("ann")}
    page.load()
    page.call("machines", None, page.text)  # it opens the panel
    page.pictures = []
    for colour in ("red", "brown"):
        out = io.BytesIO()
        picture(colour).save(out, "PNG")
        page.pictures.append({"image": page.upload(out.getvalue(), f"{colour}.png"), "caption": None})
    return page


def send(page, name="rex"):
    return page.call("send", page.pictures, name, "dog", 10, 0, "t4-small", False, None, page.text)


def test_on_the_page_a_job_is_sent_followed_and_its_result_is_the_session(page, hub, base):
    assert page.call("offered", page.text)[0]["visible"] and not page.call("offered", "0" * 32)[0]["visible"]
    assert page.call("machines", None, page.text)[0]["choices"][0][1] == "t4-small"
    send(page)
    _, start, cancel, said, _ = page.call("follow", None, page.text)
    assert "&lt;rex&gt; was taught." in said and '<pre class="cns-log"' in said and start["interactive"] and not cancel["visible"]
    assert "&lt;rex&gt; dog" in page.call("show_result", None, page.text)[2]
    store, key = page.demo.store, Owned(people_id("ann"), "session-1")
    assert [v.what for v in store.history(key)] == ["teach rex"] and store.load(key, base).concept("rex").stats["steps"] == 10
    assert hub.tokens == {"hf_oauth_ann"} and not [p for p in hub.head(ANNS).tree if "session-1" in p]


def test_a_page_that_was_closed_finds_its_job_again_and_cancels_it(page, hub):
    hub.instead = SLEEP
    send(page)
    with pytest.raises(RuntimeError, match="teaches this session already"):
        send(page, "tom")
    later = Page(page.demo, page.headers["Cookie"])
    later.load()
    later.call("machines", None, later.text)
    later.call("quit_job", None, later.text)
    assert "The job was cancelled" in later.call("follow", None, later.text)[3]
    assert [r.stage for r in hub.jobs.values()] == ["CANCELED"] and not [p for p in hub.head(ANNS).tree if "session-1" in p]


def test_only_who_signed_in_can_send_a_job_and_bad_input_is_said(page, hub):
    stranger = Page(page.demo)
    stranger.load()
    stranger.pictures = page.pictures
    for text in (stranger.text, page.text):
        for handler, inputs in (("machines", [None, text]), ("send", [page.pictures, "rex", "dog", 10, 0, None, False, None, text])):
            with pytest.raises(RuntimeError, match="You are not signed in"):
                stranger.call(handler, *inputs)
    page.pictures, pictures = None, page.pictures
    with pytest.raises(RuntimeError, match="There is no image"):
        send(page)
    page.pictures = pictures
    hub.credits = False
    with pytest.raises(RuntimeError, match="has no credits"):
        send(page)
    assert hub.jobs == {}


def test_from_a_shell_a_job_teaches_a_session_in_a_folder_and_ctrl_c_cancels_it(hub, base, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_oauth_ann")
    monkeypatch.setattr("cns.load_base", lambda *_: base)
    picture("red").save(tmp_path / "0.png")
    teach = ["teach", "--session", str(tmp_path / "s"), "--name", "rex", "--class", "dog", "--steps", "3", str(tmp_path / "0.png"), "--job", "t4-small"]
    assert main(teach) == 2 and "name the Space whose code a job is to run" in capsys.readouterr().err
    result = pack(taught(base, rex()))
    hub.instead = DONE
    monkeypatch.setattr(Exchange, "read", lambda *_: result)
    assert main([*teach, "--space", SPACE]) == 0
    out = capsys.readouterr().out
    assert "done" in out and f"{hub.url}/jobs/ann/" in out and "<rex> taught: " in out and cns.Session.load(tmp_path / "s", base).tokens == ("<rex>",)
    monkeypatch.setattr(Jobs, "watch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    hub.instead = SLEEP
    with pytest.raises(KeyboardInterrupt):
        main([*teach, "--space", SPACE, "--more"])
    assert [*hub.jobs.values()][-1].stage == "CANCELED" and not [p for p in hub.head(ANNS).tree if "shell" in p]


@NO_BROWSER
def test_in_a_browser_a_job_is_sent_watched_and_its_result_is_known_and_another_is_cancelled(serve, base, hub, browser, tmp_path):  # noqa: F811
    space = serve(LocalStore(tmp_path / "store"), base, space=SPACE)
    space.cookie("ann")
    picture("red").save(tmp_path / "red.png")
    page = browser.new_page()
    page.set_default_timeout(2 * MINUTES)
    page.goto(space.local_url)
    page.locator("#your-session").get_by_text("Your session", exact=True).click()
    page.wait_for_function("document.querySelector('#my-key input').value")  # the page has opened its session
    assert not page.locator("#jobs").is_visible()
    with page.expect_navigation(url=space.local_url):
        page.locator("#sign-in").click()
    page.locator("#images input[type=file]").first.set_input_files(tmp_path / "red.png")
    page.locator("#seen img").first.wait_for()
    page.locator("#name input, #name textarea").fill("rex")
    page.locator("#word input, #word textarea").fill("dog")
    page.get_by_role("button", name="Advanced").click()
    page.locator("#steps input[type=number]").fill("10")
    page.locator("#steps input[type=number]").press("Tab")
    page.locator("#jobs").get_by_text("Teach on HF Jobs", exact=True).first.click()
    page.wait_for_function("document.querySelector('#machine input').value.includes('$0.40 an hour')")
    page.locator("#job-start").click()
    page.locator("#job-said").get_by_text("<rex> was taught.", exact=True).wait_for()
    page.locator("#knows").get_by_text("<rex> dog").wait_for()
    assert page.locator("#job-said pre").inner_text().splitlines()[-1].startswith("<rex> taught: ") and not page.locator("#job-cancel").is_visible()
    hub.instead = SLEEP
    page.locator("#name input, #name textarea").fill("tom")
    page.locator("#job-start").click()
    page.locator("#job-said pre").get_by_text("asleep").wait_for()
    page.locator("#job-cancel").click()
    page.locator("#job-said").get_by_text("The job was cancelled: nothing of it was kept", exact=False).wait_for()
    assert [r.stage for r in hub.jobs.values()] == ["COMPLETED", "CANCELED"]
    page.close()
