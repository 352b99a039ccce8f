"""The running app as programs see it: through `gradio_client`, by the names of its endpoints."""

import asyncio
import zipfile

import numpy as np
import pytest
from conftest import picture
from gradio_client import Client, handle_file
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from PIL import Image
from test_keeping import app  # noqa: F401  a fixture

from cns.store import LocalStore
from cns.ui import build
from cns.ui.api import ENDPOINTS


@pytest.fixture
def client(app):  # noqa: F811
    return Client(app.local_url, verbose=False)


@pytest.fixture
def images(tmp_path):
    for colour in ("red", "brown"):
        picture(colour).save(tmp_path / f"{colour}.png")
    return [handle_file(tmp_path / f"{colour}.png") for colour in ("red", "brown")]


def teach(client, images, key, name="rex", more=False):
    return client.predict(key, name, "dog", images, steps=3, more=more, api_name="/teach")


def open_(file):
    return Image.open(file["path"] if isinstance(file, dict) else file)


def test_only_the_named_endpoints_are_offered_each_with_its_parameters(client):
    offered = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {name.strip("/") for name in offered} == {*ENDPOINTS}
    assert [p["parameter_name"] for p in offered["/rename"]["parameters"]] == ["key", "name", "to"]
    assert all(e["description"] for e in offered.values())


def test_a_program_teaches_draws_inspects_and_owns_what_was_learned(client, images):
    key = client.predict(api_name="/new_session")
    about = teach(client, images, key)
    assert about["kept"] == "saved" and [c["token"] for c in about["concepts"]] == ["<rex>"]
    with pytest.raises(Exception, match="was already taught"):
        teach(client, images, key)
    drawn = client.predict("a <rex> dog", key, steps=2, api_name="/generate")[0]
    assert [c["token"] for c in teach(client, images[:1], key, more=True)["concepts"]] == ["<rex>"]
    assert open_(drawn).tobytes() != open_(client.predict("a <rex> dog", key, steps=2, api_name="/generate")[0]).tobytes()
    box = {"box": [0, 0, 0.5, 1], "words": "a <rex> dog"}
    drawn = client.predict("a house", key, count=2, seed=7, steps=2, strengths={"rex": 0.5}, regions=[box], api_name="/generate")
    assert [Image.open(p["path"] if isinstance(p, dict) else p).size for p in drawn] == [(32, 32)] * 2
    started = client.predict("a house", key, steps=4, image=images[0], image_strength=0.5, api_name="/generate")
    assert len(started) == 1
    assert [c["token"] for c in client.predict(key, "rex", "max", api_name="/rename")["concepts"]] == ["<max>"]
    other = client.predict(api_name="/new_session")
    teach(client, images, other, "tom")
    both = client.predict(key, other, api_name="/merge")
    assert [c["token"] for c in both["concepts"]] == ["<max>", "<tom>"] == [c["token"] for c in both["lost"]] and both["weights_in_both"] > 0
    assert [c["token"] for c in client.predict(key, ["tom", "max"], api_name="/reorder")["concepts"]] == ["<tom>", "<max>"]
    file = client.predict(key, "patch", api_name="/export")
    new = client.predict(api_name="/new_session")
    again = client.predict(new, handle_file(file["path"] if isinstance(file, dict) else file), api_name="/import_session")
    assert [c["token"] for c in again["concepts"]] == ["<tom>", "<max>"] and again["kept"] == "saved"
    assert "cns.diff.safetensors" in zipfile.ZipFile(file["path"] if isinstance(file, dict) else file).namelist()
    less = client.predict(key, "tom", api_name="/forget")
    assert less["kept"] == "saved" and [c["token"] for c in less["lost"]] == ["<max>"]
    assert [c["token"] for c in client.predict(key, api_name="/inspect")["concepts"]] == ["<max>"]


def test_a_program_draws_tables_layouts_and_where_words_acted(client, images):
    key = client.predict(api_name="/new_session")
    teach(client, images, key)

    def apart(a, b):
        """The largest difference of two pictures' values: pictures drawn in another batch may differ in rounding."""
        return np.abs(np.asarray(open_(a), np.int16) - np.asarray(open_(b), np.int16)).max()

    cells = client.predict("a <rex> dog", "rex", key, seeds=2, seed=7, steps=2, api_name="/vary")
    assert [(c["seed"], c["value"]) for c in cells] == [(s, v) for s in (7, 8) for v in (0, 0.5, 1, 1.5)]
    alone = client.predict("a <rex> dog", key, seed=8, steps=2, strengths={"rex": 1.5}, api_name="/generate")[0]
    assert apart(cells[-1]["file"], alone) <= 2 < apart(cells[3]["file"], alone)
    cells = client.predict("a dog", "image_strength", values=[0.5, 1], image=images[0], steps=4, api_name="/vary")
    assert [(c["seed"], c["value"]) for c in cells] == [(0, 0.5), (0, 1)]
    boxes = client.predict(api_name="/layouts")
    assert boxes["side by side"] == [[0, 0, 0.5, 1], [0.5, 0, 1, 1]] and len(boxes) == 3
    regions = [{"box": box, "words": words} for box, words in zip(boxes["side by side"], ("a <rex> dog", "a cat"))]
    seen = client.predict("a house", key, seed=7, steps=2, regions=regions, api_name="/attention")
    assert [w["word"] for w in seen["words"]] == ["a", "house", "a", "<rex>", "dog", "a", "cat"]
    drawn = client.predict("a house", key, seed=7, steps=2, regions=regions, api_name="/generate")[0]
    assert apart(seen["picture"], drawn) <= 2
    assert open_(seen["words"][3]["file"]).size == (32, 32) and open_(seen["words"][3]["file"]).tobytes() != open_(seen["words"][6]["file"]).tobytes()


def test_bad_input_is_said_and_no_file_of_the_machine_is_read(client, images, tmp_path):
    key = client.predict(api_name="/new_session")
    cases = {
        "No session was found": lambda: client.predict(key, api_name="/inspect"),
        "is no session key": lambda: teach(client, images, "mine"),
        "was never taught": lambda: client.predict("a <rex> dog", api_name="/generate"),
        "is no uploaded file": lambda: teach(client, [{"path": str(tmp_path / "red.png")}], key),
        "outside the canvas": lambda: client.predict("a dog", regions=[{"box": [0, 0, 2, 1], "words": "a dog"}], api_name="/generate"),
    }
    for said, call in cases.items():
        with pytest.raises(Exception, match=said):
            call()


def test_the_endpoints_are_mcp_tools_and_nothing_else_is(tiny_base, tmp_path):
    async def use(url):
        async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            tools = (await session.list_tools()).tools
            drawn = await session.call_tool("generate", {"prompt": "a dog", "steps": 2})
            return {t.name: t.description for t in tools}, drawn

    demo = build(tiny_base, LocalStore(tmp_path))
    demo.queue(default_concurrency_limit=8)
    demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", mcp_server=True)
    try:
        tools, drawn = asyncio.run(use(demo.local_url + "gradio_api/mcp/"))
    finally:
        demo.close()
    assert tools.keys() == ENDPOINTS.keys() and all(tools.values())
    assert not drawn.isError and "0.png" in drawn.content[0].text
