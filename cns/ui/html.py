"""Data in, HTML out: strips of pictures, the progress of a teaching, what a session knows. Everything said is escaped."""

import base64
import html as escape
import io

from PIL import Image

from ..scores import CLIP_I

SHOWN = 256  # pixels: small pictures are enlarged to this before they are shown


def esc(text) -> str:
    return escape.escape(str(text))


def enlarged(image: Image.Image) -> Image.Image:
    """At least `SHOWN` pixels wide, smoothly."""
    return image if image.width >= SHOWN else image.resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)


def image(picture: Image.Image, alt: str) -> str:
    """One picture, inline."""
    out = io.BytesIO()
    enlarged(picture).save(out, "PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}" alt="{esc(alt)}">'


def figure(picture: Image.Image, caption="") -> str:
    """One picture with its caption, inline."""
    return f"<figure>{image(picture, caption)}<figcaption>{esc(caption)}</figcaption></figure>"


def strip(pairs, side=112) -> str:
    """Pictures in a row that wraps; `pairs` of (image, caption)."""
    return f'<div class="cns-strip" style="--side:{side}px">{"".join(figure(i, c) for i, c in pairs)}</div>'


def empty(text: str) -> str:
    return f'<div class="cns-empty">{text}</div>'


def note(text: str) -> str:
    """A line in small print; nothing for no text."""
    return f'<p class="cns-note">{esc(text)}</p>' if text else ""


def facts(pairs) -> str:
    """Large figures with small labels."""
    return '<div class="cns-facts">' + "".join(f"<div><b>{esc(v)}</b><span>{esc(k)}</span></div>" for k, v in pairs) + "</div>"


def words(session) -> tuple[str, ...]:
    """What stands for each concept in a prompt."""
    return tuple(c.words for c in session.concepts) if session else ()


def knows(session, base, note="") -> str:
    """The line that is always there: what this session knows, how much of the model it changed, and how it is kept."""
    note = f" &middot; {esc(note)}" if note else ""
    if not session or not session.concepts:
        return f'<div class="cns-knows">Nothing taught yet: pick a ready thing below, or drop your own pictures.{note}</div>'
    names = ", ".join(f"<b>{esc(w)}</b>" for w in words(session))
    share = len(session.delta) / base.parameters
    return f'<div class="cns-knows">Knows {names} &middot; {share:.2%} of the model changed{note}</div>'


def kept(state) -> str:
    """How the session is kept; an empty line, so that nothing moves later, as long as there is nothing to keep."""
    words = {"saving": "Saving...", "saved": "Saved", "failed": "Not saved"}.get(state.kind, "")
    text = esc(state.text)
    if state.url:
        text = f'<a href="{esc(state.url)}" target="_blank" rel="noopener" title="for the owner of the app">{text}</a>'
    return f'<div class="cns-note" role="status">{words or "&nbsp;"}{f": {text}" if state.text else ""}</div>'


STAGES = {"select": "Finding its neurons", "train": "Learning", "pause": "Learning", "remember": "Drawing what I remember", "done": "Done"}


def soon(seconds: float | None) -> str:
    """How long it still takes, as the end of a sentence; nothing where that is not known."""
    return f", about {seconds:.0f} s left" if seconds else ""


def bar(text: str, share: float) -> str:
    """What is being done, and a bar of its `share` [0, 1]."""
    return f'<div role="status">{esc(text)}</div><div class="cns-bar"><div style="width:{100 * share:.0f}%"></div></div>'


def progress(event, losses, preview) -> str:
    """Bar, stage, time left, loss curve, the latest preview."""
    (done, parts), trained = event.parts, 0.1 + 0.8 * event.step / event.steps
    part = done / parts if parts else 0.0
    share = {"select": trained if event.step else 0.1 * part, "train": trained, "pause": trained, "remember": 0.9 + 0.1 * part, "done": 1.0}[event.stage]
    where = {"select": f"part {done} of {parts}", "train": f"step {event.step} of {event.steps}", "remember": f"picture {done + 1} of {parts}"}
    at = f": {where[event.stage]}" if event.stage == "train" or parts else ""
    text = STAGES[event.stage] + at + soon(event.seconds_left)
    look = figure(preview, "how it looks so far") if preview else ""
    picture = f'<div class="cns-strip" style="--side:120px">{look}</div>' if look else ""
    return bar(text, share) + f'<div class="cns-live">{picture}{curve(losses)}</div>'


def curve(losses) -> str:
    """The smoothed loss as a line; its first and last values are written at the ends."""
    if len(losses) < 3:
        return ""
    width, height, low, high = 300, 120, min(losses), max(losses)
    points = " ".join(
        f"{i * width / (len(losses) - 1):.1f},{14 + (high - v) / (high - low or 1) * (height - 30):.1f}" for i, v in enumerate(losses)
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="xMinYMid" role="img" aria-label="training loss, now {losses[-1]:.3f}">'
        f'<polyline points="{points}" fill="none" style="stroke: var(--color-accent)" stroke-width="2"/>'
        f'<text x="2" y="11" font-size="11" fill="var(--body-text-color-subdued)">loss {losses[0]:.3f}</text>'
        f'<text x="{width - 2}" y="{height - 2}" font-size="11" text-anchor="end" fill="var(--body-text-color-subdued)">now {losses[-1]:.3f}</text></svg>'
    )


def score(value) -> str:
    return "" if value is None else f"CLIP-I {value:.3f}"


def taught(event) -> str:
    """After a teaching: before and after, and what is still remembered."""
    learned, memories = event.learned, event.memories
    s = learned.stats
    before = [(event.before, f"before: a {learned.class_word} {score(s['clip_i_before'])}")] if event.before else []
    pair = strip([*before, (learned.picture, f"after: a {learned.words} {score(s['clip_i'])}")], 176) + note(CLIP_I if s["clip_i"] is not None else "")
    head = f"<h3>{esc(learned.token)} is learned</h3>" + facts(
        [("neurons trained", f"{s['neurons']:,}"), ("of the model", f"{s['share_of_model']:.2%}"), ("seconds", f"{s['seconds']:.0f}")]
    )
    others = len(event.session.concepts) - 1
    if len(memories) < others or not before:  # it was stopped
        left = f" {others - len(memories)} of {others} earlier things were not drawn again: they are as they were, and Generate draws them." if others else ""
        head += note(f"Stopped after step {event.step} of {event.steps}: what it had learned by then is kept.{left}")
    if not memories and others:
        return head + pair
    if not memories:
        return head + pair + note("Teach another thing: this one will be drawn again then, so you can see that it stays.")
    return head + pair + "<h3>What I still remember</h3>" + remembered(memories)


def remembered(memories) -> str:
    """Every earlier concept: when it was taught beside now, from the same seed."""
    rows = (
        f"<div><b>{esc(m.token)}</b>" + strip([(m.then, f"when taught {score(m.clip_i_then)}"), (m.now, f"now {score(m.clip_i_now)}")]) + "</div>"
        for m in memories
    )
    return f'<div class="cns-memory">{"".join(rows)}</div>'
