"""What one moves in a notebook: each page is computed without a browser, says what the code says, and escapes texts."""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser

import ipywidgets
import matplotlib as mpl
import pytest
import torch
from made_up import dialogues, model_config
from torch.testing import assert_close

mpl.use("Agg")

from rd.chat import Turned  # noqa: E402
from rd.data.corpus import Dialogue, Turn  # noqa: E402
from rd.errors import UserError  # noqa: E402
from rd.figures import panels  # noqa: E402
from rd.models.intent import MimicryUnit  # noqa: E402
from rd.widgets.board import Board, bars, picture, table  # noqa: E402
from rd.widgets.dialogue import EVERY, answer_page, dialogue_browser, dialogue_page, talk_box  # noqa: E402
from rd.widgets.diffusion import CLEAN, Mimicry, journey, steps_board  # noqa: E402
from rd.widgets.policy import play, playground, playground_page  # noqa: E402

EVIL = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"><b onclick=alert(1)>', "&lt;b&gt; </div>"]


class Page(HTMLParser):
    """Reads a page back: its text, its tags, the text inside marks; an open tag must be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.marks, self.open = "", [], [], []
        self.feed(page)
        assert self.open == [], page[:300]

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")], attrs
        self.open += [] if tag in ("img", "br") else [tag]
        self.marks += [""] if tag == "mark" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "mark" in self.open:
            self.marks[-1] += data


# --- the board -----------------------------------------------------------------------------------------------------


def test_a_board_asks_its_page_at_once_and_at_each_move() -> None:
    handle, asked = ipywidgets.IntSlider(3, min=0, max=9), []
    board = Board(lambda number: asked.append(number) or f"<p>{number}</p>", {"number": handle})
    handle.value = 5
    assert (asked, board.shown.value) == ([3, 5], "<p>5</p>")


def test_what_cannot_show_widgets_shows_the_page() -> None:
    board = Board(lambda number: f"<p>{number}</p>", {"number": ipywidgets.IntSlider(3)})
    bundle = board._repr_mimebundle_()
    assert bundle["text/html"] == "<p>3</p>" and "application/vnd.jupyter.widget-view+json" in bundle


def test_a_users_mistake_is_a_line_of_the_page() -> None:
    def page(number: int) -> str:
        raise UserError(f"{EVIL[0]}: no such thing")

    shown = Page(Board(page, {"number": ipywidgets.IntSlider(3)}).shown.value)
    assert shown.text == f"{EVIL[0]}: no such thing" and shown.tags == ["p"]


def test_a_board_that_waits_asks_once_when_the_handles_are_still() -> None:
    async def typed() -> list[str]:
        line, asked = ipywidgets.Text(""), []
        Board(lambda text: asked.append(text) or text, {"text": line}, wait=0.02)
        for text in ("I", "I l", "I lost it"):
            line.value = text
        assert asked == [""]
        for _ in range(500):
            await asyncio.sleep(0.01)
            if len(asked) > 1:
                break
        await asyncio.sleep(0.05)
        return asked

    assert asyncio.run(typed()) == ["", "I lost it"]


def test_tables_bars_and_pictures_escape_their_texts() -> None:
    for text in EVIL:
        assert Page(table([[text, 0.12345]], [text, "n"])).text == f"{text}n{text}0.123"
        assert Page(bars({text: 0.256}, "red")).text == f"{text} 26%"
        assert Page(picture(panels()[0], text)).tags == ["img"]


# --- dialogues -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", EVIL)
def test_texts_of_users_stay_texts(text: str) -> None:
    plain = [Page(dialogue_page(Dialogue("d", "sad", "fine", (Turn("fine"), Turn("fine", intent="wishing")))))]
    plain += [Page(answer_page(Turned("fine", [(0, 4)], {}, "fine"), ["fine", "fine"]))]
    turns = (Turn(text, ((0, 4),)), Turn(text, intent=text))
    pages = [Page(dialogue_page(Dialogue(text, text, text, turns)))]
    pages += [Page(answer_page(Turned(text, [(0, len(text))], {"emotion": {text: 0.5}}, text), [text, text]))]
    assert pages[0].text.count(text) == 6 and pages[1].text.count(text) == 5
    for page, usual in zip(pages, plain, strict=True):
        assert set(page.tags) <= set(usual.tags) | {"mark"}


def test_a_dialogue_shows_its_labels() -> None:
    turns = (Turn("I lost my key", ((2, 13),)), Turn("oh no", intent="consoling"))
    page = Page(dialogue_page(Dialogue("d1", "sad", "a key", turns), "(1 of 2)"))
    assert page.marks == ["lost my key"]
    assert all(word in page.text for word in ("sad", "d1 (1 of 2)", "situation: a key", "consoling"))


def test_the_browser_walks_over_all_dialogues_of_an_emotion() -> None:
    given = dialogues(20)
    board = dialogue_browser(given)
    emotion, number = board.handles["emotion"], board.handles["number"]
    number.value = 20
    assert given[19].id in Page(board.shown.value).text
    chosen = [d for d in given if d.emotion == given[0].emotion]
    emotion.value = given[0].emotion
    assert number.max == len(chosen) and chosen[-1].id in Page(board.shown.value).text
    number.value = 1
    assert f"{chosen[0].id} (1 of {len(chosen)})" in Page(board.shown.value).text
    emotion.value = EVERY
    assert number.max == 20 and given[0].id in Page(board.shown.value).text


class Parrot:
    """Answers as `rd.chat.Chat` does, without a model."""

    def __init__(self) -> None:
        self.turns, self.looked = [], []

    def look(self, text: str) -> Turned:
        self.looked.append(text)
        emotions = {"sad": 0.7, "lonely": 0.2, "angry": 0.1}
        shares = {"emotion": emotions, "first": {"questioning": 1.0}, "final": {"consoling": 0.6, "wishing": 0.4}}
        return Turned(text, [(0, 1)], shares, f"{text}?")

    def say(self, text: str) -> Turned:
        self.turns += [text, f"{text}?"]
        return self.look(text)


def test_the_box_answers_what_is_typed_and_keeps_what_is_said() -> None:
    chat = Parrot()
    board = talk_box(chat, "I lost it")
    page = Page(board.shown.value)
    assert page.marks == ["I"] and "I lost it?" in page.text and "questioning → consoling" in page.text
    assert re.search(r"sad 70%lonely 20%angry 10%", page.text) and chat.turns == []
    board.handles["text"].value = "  "
    assert chat.looked == ["I lost it"]  # nothing typed: nobody is asked
    board.handles["text"].value = "again"
    say, again = (w for w in board.children[0].children if isinstance(w, ipywidgets.Button))
    say.click()
    assert chat.turns == ["again", "again?"] and board.handles["text"].value == ""
    assert "again?" in Page(board.shown.value).text
    again.click()
    assert chat.turns == [] and "again" not in Page(board.shown.value).text.replace("start again", "")


def test_a_model_that_names_nothing_says_so() -> None:
    page = Page(answer_page(Turned("hello", None, {}, "hi")))
    assert page.text.count("not named") == 3 and "marks no reasons" in page.text


# --- policy --------------------------------------------------------------------------------------------------------

CASES = [
    ((0.0, 1.5, 0.5), (0.6, 0.05, 0.15), 0.1, (0.3, 0.5, 0.8)),
    ((2.0, -1.0, 0.3), (0.0, 0.0, 0.0), 0.0, (1.0, 0.0, 0.5)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, (0.5, 0.5, 0.5)),
]


@pytest.mark.parametrize("case", CASES)
def test_the_playground_s_numbers_a_second_way(case) -> None:
    logits, guess, explore, rewards = case
    found = play(logits, guess, explore, rewards)
    learned = torch.tensor(logits, requires_grad=True)
    pi = learned.softmax(-1)
    expected = (pi * torch.tensor(rewards)).sum()
    (exact,) = torch.autograd.grad(expected, learned)
    assert_close(torch.tensor(found["exact"]), exact)
    assert_close(torch.tensor(found["trained"]), exact)  # no clip, and all three are tried: unbiased
    spread = torch.distributions.Categorical(torch.tensor(found["mu"])).entropy()
    assert_close(found["entropy_mu"], spread.item(), rtol=1e-4, atol=1e-5)
    assert_close(found["entropy"], torch.distributions.Categorical(pi).entropy().item(), rtol=1e-4, atol=1e-5)
    total = sum(guess)
    inside = [g / total if total else 1 / 3 for g in guess]
    mu = [(1 - explore) * g + explore / 3 for g in inside]
    assert found["mu"] == pytest.approx(mu) and found["pi"] == pytest.approx(pi.tolist())
    assert found["ratio"] == pytest.approx([p / m for p, m in zip(pi.tolist(), mu)])
    assert found["expected"] == pytest.approx(expected.item())
    assert found["expected_mu"] == pytest.approx(sum(m * r for m, r in zip(mu, rewards)))


def test_clip_and_untried_intents_bias_the_gradient_and_the_noise_is_that_of_draws() -> None:
    logits, guess, explore, rewards = CASES[0]
    free, clipped = (play(logits, guess, explore, rewards, clip) for clip in (None, 1.0))
    assert clipped["noise"] < free["noise"]
    assert (torch.tensor(clipped["trained"]) - torch.tensor(free["exact"])).norm() > 0.01
    never = play(logits, (0.5, 0.0, 0.5), 0.0, rewards)
    assert never["ratio"][1] == float("inf") and all(abs(g) < 9 for g in never["trained"])
    assert never["trained"] != pytest.approx(never["exact"], abs=1e-3)
    chance = torch.Generator().manual_seed(0)
    pi, mu = torch.tensor(free["pi"]), torch.tensor(free["mu"])
    drawn = torch.multinomial(mu, 200_000, replacement=True, generator=chance)
    steps = (pi / mu * torch.tensor(rewards))[drawn, None] * (torch.eye(3)[drawn] - pi)
    assert steps.var(0).sum().sqrt().item() == pytest.approx(free["noise"], rel=0.02)


def test_the_playground_moves() -> None:
    board = playground()
    before = board.shown.value
    board.handles["reward_c"].value = 0.1
    assert board.shown.value != before
    start = play((0.0, 1.5, 0.5), (0.6, 0.05, 0.15), 0.1, (0.3, 0.5, 0.1), 2.0)
    assert board.shown.value == playground_page(start)
    assert f"{start['entropy']:.3f}" in Page(board.shown.value).text


# --- diffusion -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mimicry() -> Mimicry:
    """Six samples of two emotions before an untrained unit (t* = 6, two calls)."""
    torch.manual_seed(0)
    config = model_config()
    emu, first = MimicryUnit(config).eval(), torch.rand(6, 9).softmax(-1)
    names, emotions = [f"d{i}:2" for i in range(6)], ["sad", "proud"] * 3
    return Mimicry(emu, torch.randn(2, 6, config.width), first, names, emotions)


def test_the_way_out_is_eq6_and_the_way_back_ends_where_the_model_s_does(mimicry: Mimicry) -> None:
    emu = mimicry.emu
    levels, path = journey(emu, mimicry.states[:, 2], mimicry.first[2], emu.settings.chain_steps)
    assert levels == [CLEAN, 0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 2, 1, 0, CLEAN]
    for place in range(1, 8):
        bar = float(torch.prod(1 - emu.diffusion.beta[: levels[place] + 1]))
        noised = bar**0.5 * mimicry.states[:, 2] + (1 - bar) ** 0.5 * emu.still_noise[:, 0]
        assert_close(path[place], noised)
    assert_close(path[0], mimicry.states[:, 2])
    assert_close(path[-1], emu.mimic(mimicry.states[:, 2:3], mimicry.first[2:3])[:, 0].detach())
    every = journey(emu, mimicry.states[:, 2], mimicry.first[2], 7)[1]
    assert all(not torch.equal(every[i], every[i + 1]) for i in range(14))  # asked at each level, it moves at each


def test_distances_and_nearest_means_against_a_loop(mimicry: Mimicry) -> None:
    path = torch.randn(3, 2, mimicry.states.size(-1))
    far = mimicry.distances(1, path)
    for place in range(3):
        for side in range(2):
            own = (path[place, side] - mimicry.states[side, 1]).square().mean().sqrt()
            assert far["own Q_s"][place, side] == pytest.approx(own.item(), rel=1e-5)
    means = {name: mimicry.states[:, start::2].mean(1) for start, name in enumerate(("sad", "proud"))}
    for side in range(2):
        near = min(means, key=lambda name: (means[name][side] - path[0, side]).norm())
        assert mimicry.nearest(path[0])[side] == near
        gap = (path[0, side] - means["proud"][side]).square().mean().sqrt()
        assert far["its emotion's mean"][0, side] == pytest.approx(gap.item(), rel=1e-5)


def test_the_step_slider_goes_out_and_back(mimicry: Mimicry) -> None:
    board = steps_board(mimicry)
    shown = []
    for place, words in ((0, "clean: Q_s"), (3, "on the way out, level n = 2"), (9, "on the way back, level n = 4")):
        board.handles["place"].value = place
        shown.append(board.shown.value)
        assert words in Page(shown[-1]).text
    board.handles["place"].value = board.handles["place"].max
    assert "clean: Emo_s" in Page(board.shown.value).text and len(set(shown)) == 3
    board.handles["sample"].value = 3
    assert "d3:2, proud" in Page(board.shown.value).text
