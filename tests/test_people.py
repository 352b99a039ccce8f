"""Who shows a token, asked of the stand-in Hub."""

import pytest
from hub import running
from huggingface_hub import HfApi, constants

from cns.store.hub import HubRefuses
from cns.store.people import People, Person


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running() as hub:
        yield hub


def people(hub, **options):
    return People(HfApi(endpoint=hub.url, token="hf_writer"), **options)


def test_a_token_is_asked_about_once_and_again_when_the_answer_is_old(hub):
    asked = people(hub)
    ann = asked.who("hf_oauth_ann")
    assert ann.name == "ann" and asked.who("hf_oauth_ann") == ann != asked.who("hf_oauth_bob")
    assert hub.counts["whoami"] == 2
    forgetful = people(hub, known=0)
    assert forgetful.who("hf_oauth_ann") == forgetful.who("hf_oauth_ann") == ann and hub.counts["whoami"] == 4


@pytest.mark.parametrize("token", [None, "", "nonsense", "hf_oauth", "\ud800", "a\nb", "é"])
def test_a_forged_token_is_nobodys_and_is_not_asked_about_twice(hub, token):
    asked = people(hub)
    assert asked.who(token) is None is asked.who(token)
    assert hub.counts["whoami"] <= 1


def test_a_token_of_an_organisation_is_nobodys(hub):
    assert people(hub).who("hf_oauth_org") is None


@pytest.mark.parametrize("how", [429, 500, "cut"])
def test_a_hub_that_cannot_be_asked_is_said_and_asked_again(hub, how):
    asked = people(hub)
    hub.fail("GET", "/whoami-v2", how)
    with pytest.raises(HubRefuses, match="did not say who you are"):
        asked.who("hf_oauth_ann")
    assert isinstance(asked.who("hf_oauth_ann"), Person)


def test_what_is_remembered_is_bounded_and_holds_no_token(hub, monkeypatch):
    monkeypatch.setattr("cns.store.people.MOST", 3)
    asked = people(hub)
    for i in range(10):
        asked.who(f"hf_oauth_{i}")
    assert len(asked._answers) <= 3 and "hf_oauth" not in repr(asked._answers)
