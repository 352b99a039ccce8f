"""How the page keeps a session: what it says, what it refuses, and many visitors at once through the running app's API."""

import io
import json
import secrets
import threading
import urllib.request
import zipfile
from dataclasses import replace

import pytest
from conftest import picture

from cns.store import Draft, LocalStore, State, pack, unpack
from cns.store.archive import MAX_HEADER, digest
from cns.ui import gpu, html, keeping, teach
from cns.ui.common import NO_STORE, keep_session, mark

KEY = "0123456789abcdef" * 2


def renamed(session, name):
    """The same neurons under another name."""
    c = session.concepts[0]
    return replace(session, concepts=(replace(c, name=name, stats={**c.stats, "prompt": f"a <{name}> dog"}),))


class Visitor:
    """One browser tab, over plain HTTP: calls a handler of the app by its name; `search`: what its address has after the path."""

    def __init__(self, demo, cookie="", search=""):
        self.search, self.url, self.demo, self.session = search, demo.local_url.rstrip("/") + "/gradio_api", demo, secrets.token_hex(8)
        self.headers, self.more = {"Cookie": cookie}, {}

    def call(self, handler: str, *data) -> list:
        """Its outputs. Raises RuntimeError with what the page would show."""
        index = next(i for i, f in self.demo.fns.items() if f.name == handler)
        body = json.dumps({"fn_index": index, "data": data, "session_hash": self.session, **self.more}).encode()
        request = urllib.request.Request(f"{self.url}/queue/join{self.search}", body, {"Content-Type": "application/json", **self.headers})
        urllib.request.urlopen(request, timeout=120).read()
        for line in urllib.request.urlopen(f"{self.url}/queue/data?session_hash={self.session}", timeout=120):
            said = json.loads(line[6:]) if line.startswith(b"data: ") else {}
            if said.get("msg") == "process_completed":
                if not said["success"]:
                    raise RuntimeError(said["output"].get("error"))
                return said["output"]["data"]
        raise RuntimeError("the stream ended")

    def upload(self, content: bytes, name: str = "s.safetensors") -> dict:
        """The file as a component gets it."""
        edge = secrets.token_hex(8)
        head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        request = urllib.request.Request(
            f"{self.url}/upload", head.encode() + content + f"\r\n--{edge}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={edge}"}
        )
        path = json.loads(urllib.request.urlopen(request, timeout=120).read())[0]
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def app(tiny_base, served):
    gpu.use(tiny_base)
    return served


def test_fifty_visitors_at_once_keep_their_sessions_and_see_nobody_elses(app, rex, tiny_base):
    names, seen, wrong = [f"thing{i}" for i in range(50)], {}, []

    def visit(name):
        try:
            one = Visitor(app)
            key = one.call("resume", "")[2]
            one.call("take_in", one.upload(pack(renamed(rex, name))), None, key)
            two = Visitor(app)  # another tab of the same browser
            two.call("take_in", two.upload(pack(renamed(rex, f"{name}b"))), None, key)
            fresh = Visitor(app)
            seen[name] = key, fresh.call("resume", key), fresh.call("look", key)
        except Exception as error:
            wrong.append(f"{name}: {error!r}")

    threads = [threading.Thread(target=visit, args=(n,)) for n in names]
    for work in (threading.Thread.start, threading.Thread.join):
        for thread in threads:
            work(thread)
    assert wrong == [] and len({key for key, *_ in seen.values()}) == 50
    keys = [key for key, *_ in seen.values()]
    for name, (key, resumed, history) in seen.items():
        text = json.dumps([resumed, history])
        assert f"&lt;{name}b&gt; dog" in resumed[4] and len(history[0]["choices"]) == 2
        assert not [n for n in names if n != name and (f"<{n}>" in text or f"<{n}b>" in text or f";{n}&" in text or f";{n}b&" in text)]
        assert not [k for k in keys if k != key and k in text]


def test_the_panel_undoes_brings_back_carries_and_deletes(app, rex):
    tab = Visitor(app)
    key = tab.call("resume", "not a key")[2]
    assert len(key) == 32
    tab.call("take_in", tab.upload(pack(rex)), None, key)
    kept, retry, history, shown_key, _ = tab.call("show", key, None)
    assert "Saved" in kept and not retry["visible"] and shown_key == key and history["choices"][0][0].endswith("upload")
    elsewhere = Visitor(app)
    assert "&lt;rex&gt; dog" in elsewhere.call("open_key", f" {key.upper()} ", "")[2]
    for nothing in ("", "0" * 32, "nonsense", "../" + key):
        with pytest.raises(RuntimeError, match="No session was found under this key"):
            elsewhere.call("open_key", nothing, "")
    assert "Nothing taught yet" in tab.call("take_back", None, key)[2]
    assert "&lt;rex&gt; dog" in tab.call("bring", None, key, tab.call("look", key)[0]["choices"][-1][1])[2]
    out = tab.call("remove", key)
    assert "Nothing of it remains" in out[-1] and out[-2] != key and "Nothing taught yet" in tab.call("resume", key)[4]


def test_renaming_and_forgetting_are_saved_said_and_undone(app, rex):
    tab = Visitor(app)
    key = tab.call("resume", "")[2]
    tab.call("take_in", tab.upload(pack(rex)), None, key)
    tab.call("refresh", None, None, "block")
    assert "&lt;max&gt; dog" in tab.call("renamed", None, "rex", " Max ", None, key)[4]
    tab.call("refresh", None, None, "block")
    tab.call("forgotten", None, "max", None, key)
    assert [c[0].split(": ")[1] for c in tab.call("look", key)[0]["choices"]] == ["forget max", "rename max", "upload"]
    assert "Nothing taught yet" in Visitor(app).call("resume", key)[4]
    for name in ("max", "rex"):
        assert f"&lt;{name}&gt; dog" in tab.call("take_back", None, key)[2]


def test_a_bad_upload_is_refused_and_changes_nothing(app, rex):
    tab = Visitor(app)
    key = tab.call("resume", "")[2]
    tab.call("take_in", tab.upload(pack(rex)), None, key)
    for bad in (b"", b"hello", pack(rex)[:-1], pack(rex).replace(b"rex", b"max")):
        with pytest.raises(RuntimeError, match="damaged or no session"):
            tab.call("take_in", tab.upload(bad), None, key)
    assert "&lt;rex&gt; dog" in tab.call("resume", key)[4]


def test_saving_says_what_happened_and_never_saved_before_it_is(rex, tmp_path, tiny_base, monkeypatch):
    store = LocalStore(tmp_path)
    assert keep_session(store, KEY, rex) == "saved" and store.load(KEY, tiny_base).tokens == ("<rex>",)
    assert keep_session(None, KEY, rex) == NO_STORE
    assert keep_session(store, "no key", rex).startswith("not saved: this is no session key")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert "not saved: [Errno 28] No space left" in keep_session(store, KEY, rex)


def test_a_session_that_is_on_its_way_is_not_called_saved(rex):
    class Slow:
        def save(self, *_):
            """Into a journal."""

        def state(self, _):
            return State("saving", "on its way")

    assert keep_session(Slow(), KEY, rex) == "saving"
    assert "Saving" in html.kept(Slow().state(KEY)) and "Saved" not in html.kept(Slow().state(KEY))


def test_the_state_is_escaped_and_links_to_the_commit():
    shown = html.kept(State("saved", "commit <b>", "https://x/?a=1&b=2"))
    assert "&lt;b&gt;" in shown and 'href="https://x/?a=1&amp;b=2"' in shown
    assert "&nbsp;" in html.kept(State("", "")) and "aved" not in html.kept(State("", "")) and "Not saved: full" in html.kept(State("failed", "full"))


def test_every_mark_is_a_new_one():
    assert mark("saved") != mark("saved")


def test_a_draft_is_kept_offered_and_dropped_and_a_full_disk_does_not_stop_the_teaching(tmp_path, monkeypatch):
    store = LocalStore(tmp_path / "store")
    picture().save(tmp_path / "1.png")
    teach.keep_draft(store, KEY, [(str(tmp_path / "1.png"), None)], "<b>rex", "dog", 10, 3)
    assert store.draft(KEY) == Draft([(tmp_path / "1.png").read_bytes()], {"name": "<b>rex", "word": "dog", "steps": 10, "seed": 3})
    row, words = teach.drafted(store, KEY)
    assert row["visible"] and "&lt;b&gt;rex" in words
    teach.drop_draft(store, KEY)
    assert not teach.drafted(store, KEY)[0]["visible"] and not teach.drafted(None, KEY)[0]["visible"]
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    teach.keep_draft(store, KEY, [(str(tmp_path / "1.png"), None)], "rex", "dog", 10, 3)
    teach.keep_draft(None, KEY, [], "rex", "dog", 10, 3)
    assert store.draft(KEY) is None


def test_the_history_reads_as_sentences_and_marks_what_was_made_at_once(rex, tmp_path):
    store = LocalStore(tmp_path)
    for name in ("one", "two"):
        store.save(KEY, renamed(rex, name), "teach", name)
    read = [words for words, _ in keeping.labels(store.history(KEY))]
    assert [r.split(": ")[1] for r in read] == ["teach two (one of two made at once)", "teach one (one of two made at once)"]


def test_a_zip_is_opened_only_where_it_carries_a_whole_session(tiny_base, rex, tmp_path):
    def zipped(**members):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
            for name, content in members.items():
                z.writestr(name, content)
        return out.getvalue()

    rex.save(tmp_path)
    about, (file,) = (tmp_path / "session.json").read_bytes(), tmp_path.glob("session-*.safetensors")
    whole = {"a/session.json": about, f"a/{file.name}": file.read_bytes(), "../../evil": b"x"}
    assert digest(unpack(zipped(**whole), tiny_base)) == digest(rex)
    bad = {"nothing": {}, "no tensors": {"session.json": about}, "no json": {"session.json": b"{"}, "others": {**whole, f"a/{file.name}": b"0" * 99},
           "a bomb": {**whole, "a/session.json": b" " * (MAX_HEADER + 1)}}  # fmt: skip
    for members in bad.values():
        with pytest.raises(ValueError, match="damaged or no session"):
            unpack(zipped(**members), tiny_base)
    with pytest.raises(ValueError, match="damaged or no session"):
        unpack(zipped(**whole)[:-200], tiny_base)
