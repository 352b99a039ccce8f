import torch
from conftest import TEMPLATES, assert_unchanged, snapshot

from cns.parts import whole
from cns.response import Still, roomy, second_moment
from cns.text import read


def test_an_update_is_mapped_to_the_nearest_one_that_held_text_hardly_notices():
    """Against the definition, solved for the whole matrix at once by least squares."""
    g = torch.Generator().manual_seed(0)
    x, mask = torch.randn(40, 6, generator=g), torch.rand(5, 6, generator=g) < 0.5
    mask[2], mask[3] = False, True
    c, mu, index = x.T @ x / 40, 3.0, mask.flatten().nonzero().squeeze(1)
    u = torch.randn(len(index), generator=g)
    got = Still(index, c[None], mu, torch.zeros(5, dtype=torch.long))(u)
    for r in range(5):
        own, columns = index // 6 == r, index[index // 6 == r] % 6
        held = torch.cat([torch.eye(len(columns)), (mu / 40) ** 0.5 * x[:, columns]])
        wanted = torch.linalg.lstsq(held, torch.cat([u[own], torch.zeros(40)])[:, None]).solution.squeeze(1)
        assert torch.allclose(got[own], wanted, atol=1e-5)


def test_nothing_selected_gives_nothing_and_nothing_held_changes_nothing():
    one = torch.zeros(2, dtype=torch.long)
    assert Still(torch.zeros(0, dtype=torch.long), torch.eye(4)[None], 5.0, one)(torch.zeros(0)).shape == (0,)
    u, index = torch.randn(3), torch.tensor([0, 5, 6])
    assert torch.allclose(Still(index, torch.zeros(1, 4, 4), 5.0, one)(u), u)


def test_a_new_token_moves_to_where_held_text_leaves_room_and_is_read_much_as_before(tiny_base):
    token, mu, prompts = "<rex>", 1000.0, [t.format("<rex> dog") for t in TEMPLATES]
    start, kept = tiny_base.embeddings[0].weight[4].detach().clone(), snapshot(tiny_base)
    c = whole(second_moment(tiny_base, ["a dog", "a dog on a red background", "a photo of a cat"], {}))

    def text(vector):
        return tiny_base.projected(read(tiny_base, prompts, {token: vector}))

    def room(vector):
        x = text(vector)
        return ((x @ torch.linalg.inv(torch.eye(c.shape[-1]) + mu * c[0])) * x).sum(-1).div(x.square().sum(-1)).amax(1).mean().item()

    moved = whole(roomy(tiny_base, prompts, {token: start}, token, c, mu, 0.005, 20))
    assert room(moved) > 1.5 * room(start)
    apart = (text(moved) - text(start)).square().sum(-1) / text(start).square().sum(-1)
    assert 0 < apart.mean() < 0.5
    assert torch.equal(whole(roomy(tiny_base, prompts, {token: start}, token, c, mu, 0.005, 0)), start)
    assert_unchanged(tiny_base, kept)
