"""The shell's door: `python -m cns teach|generate|inspect|info|forget|rename|reorder|merge|export|import|push|bench`. Exit 0: done; 2: bad input, said in one line."""

import json
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from .options import parser


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        COMMANDS[args.command](args)
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        print(f"cns {args.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _open(args):
    """(base, session or None)"""
    from . import Session, load_base

    base = load_base(args.base)
    return base, Session.load(args.session, base) if args.session else None


def _teach(args):
    from . import Concept, TeachSettings, check, load_base, load_images, parallel, teach
    from .store.exchange import fetched, keep, opened
    from .store.jobs import teach_there

    changes = {"seed": args.seed, "preview_every": 0} | ({"steps": args.steps} if args.steps is not None else {})
    concept = Concept(args.name, args.class_word, load_images([*map(fetched, args.images)]))
    device = parallel.join()  # None unless `accelerate launch` started several
    base = load_base(args.base, device)
    session = opened(args.session, base)
    check(base, session, concept, args.more)
    settings = TeachSettings.of(base, **changes)
    if args.job:
        done = teach_there(base, session, concept, args.job, args.space, print, steps=settings.steps, seed=settings.seed, more=args.more)
        keep(args.session, done)
        return _taught(done.concept(concept.name))
    first = parallel.rank() == 0
    lines = {} if sys.stderr.isatty() else {"bar_format": "{l_bar}{bar}{r_bar}\n", "mininterval": 2}  # a log shows whole lines only
    with tqdm(total=settings.steps, unit="step", desc=concept.token, disable=not first, **lines) as bar:
        for event in teach(base, session, concept, settings, more=args.more):
            bar.update(event.step - bar.n)
            bar.set_postfix_str(f"loss {event.loss:.4f}" if event.stage == "train" else "{} {}/{}".format(event.stage, *event.parts))
    parallel.leave()
    if not first:
        return
    keep(args.session, event.session)
    _taught(event.learned)


def _taught(concept):
    stats = concept.stats
    print(f"{concept.token} taught: {stats['neurons']:,} neurons ({stats['share_of_model']:.2%} of the model), {_score(stats)}")


def _score(stats) -> str:
    return f"CLIP-I {stats['clip_i_before']:.3f} -> {stats['clip_i']:.3f}" if stats["clip_i"] is not None else "no CLIP to score it"


def _generate(args):
    from . import GenerateSettings, Region, Session, check_prompt, explain, generate, load_images, load_layout, save_layout, variations
    from .regions import arranged, check_words

    preset = arranged(args.preset, args.words) if args.preset or args.words else ()
    regions = (*(load_layout(args.layout) if args.layout else ()), *preset, *map(Region.parse, args.regions))
    numbers = {n: v for n in ("count", "seed", "steps", "guidance", "negative", "image_strength", "together") if (v := getattr(args, n)) is not None}
    settings = GenerateSettings(**numbers, regions=regions, strengths=dict(map(_strength, args.strengths)))
    image = load_images([args.image])[0] if args.image else None
    base, session = _open(args)
    if cut := check_prompt(base, session, args.prompt) + check_words(base, session, regions):
        print(f"cns generate: the prompt is too long, these words are not read: {' '.join(cut)}", file=sys.stderr)
    (session or Session.new(base)).times(settings.strengths)
    columns = [("", settings)]
    if args.vary:
        what, values = variations.parse(args.vary)
        values = values or variations.usual(what, base.guidance if settings.guidance is None else settings.guidance)
        columns = [(f"-{what.strip('<>')}-{v:g}", s) for v, s in variations.columns(session, settings, what, values)]
    args.out.mkdir(parents=True, exist_ok=True)
    if args.save_layout:
        save_layout(regions, args.save_layout)
    for i, (said, each) in tqdm([(i, c) for i in range(settings.count) for c in columns], unit="picture"):
        path = args.out / f"{settings.seed + i}{said}.png"
        generate(base, args.prompt, session, replace(each, count=1, seed=settings.seed + i), image)[0].save(path)
        tqdm.write(str(path))
    if args.overlay:
        picture, heats = explain(base, args.prompt, session, settings, image)
        for i, heat in enumerate(heats, 1):
            path = args.out / f"{settings.seed}-{i:02}-{re.sub('[^a-z0-9_-]', '', heat.word)}.png"
            heat.over(picture).save(path)
            tqdm.write(str(path))


def _strength(text: str) -> tuple[str, float]:
    """`rex=0.5` as a pair."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"strength `{text}` is not a name and a number: write it as `rex=0.5`") from None


def _inspect(args):
    from . import figures, inspection

    base, session = _open(args)
    args.out.mkdir(parents=True, exist_ok=True)
    if not session.concepts:
        raise ValueError(f"the session in `{args.session}` knows nothing yet: teach something first")
    plots = {f"{c.name}-funnel": inspection.funnel(session, c.name) for c in session.concepts}
    all_of_it = inspection.overlap(session), inspection.growth(base, session), inspection.updates(inspection.norms(base), session)
    plots |= {p.key: p for p in (*all_of_it, *(inspection.spread(base, session, by) for by in inspection.WAYS))}
    for name, plot in tqdm(plots.items(), unit="figure"):
        figures.draw(plot).savefig(args.out / f"{name}.png", facecolor="white")
        (args.out / f"{name}.csv").write_text(plot.csv())
        tqdm.write(str(args.out / f"{name}.png"))
    if args.draw:
        _probe(base, session, args)


def _probe(base, session, args):
    """The pictures of every probe and of every cell of the forgetting matrix, with their scores as CSV."""
    from . import figures, inspection
    from .probing import csv, probes, row

    for i, c in enumerate(session.concepts):
        other = session.concepts[i - 1].name if i or len(session.concepts) > 1 else None
        found = []
        for p in tqdm(probes(base, session, c.name, other, args.seed), unit="probe", desc=c.token):
            p.picture.save(args.out / f"{c.name}-{re.sub('[^a-z0-9]+', '-', p.title).strip('-')}.png")
            found.append(p)
        (args.out / f"{c.name}-probes.csv").write_text(csv(found))
    scores = []
    for last in tqdm(range(1, len(session.concepts) + 1), unit="row", desc="forgetting"):
        cells = row(base, session, last)
        scores.append([score for _, score in cells])
        for (picture, _), c in zip(cells, session.concepts):
            picture.save(args.out / f"{c.name}-after-{session.concepts[last - 1].name}.png")
    if base.scorer:
        plot = inspection.forgetting(session, scores)
        figures.draw(plot).savefig(args.out / "forgetting.png", facecolor="white")
        (args.out / "forgetting.csv").write_text(plot.csv())


def _info(args):
    base, session = _open(args)
    summary = session.summary(base)
    if args.json:
        print(json.dumps(summary, indent=1))
        return
    print(f"base {summary['base']} (revision {summary['revision']})")
    print(f"changed {summary['changed_weights']:,} weights ({summary['changed_share']:.2%} of the model), {summary['bytes']:,} bytes")
    for c in summary["concepts"]:
        print(f"{c['token']} {c['class_word']}: {c['neurons']:,} neurons, {c['steps']} steps in {c['seconds']:.0f} s, {_score(c)}")


def _forget(args):
    from . import compared, forget

    base, session = _open(args)
    less = forget(session, args.name)
    less.save(args.session)
    freed = len(session.delta) - len(less.delta)
    print(f"{session.concept(args.name).token} forgotten: {freed:,} weights are the base's again, {len(less.delta):,} stay changed")
    _lost(compared(base, session, less))


def _lost(changes):
    """One line for each concept that was there before."""
    for c in changes:
        score = f"CLIP-I {c.clip_i_before:.3f} -> {c.clip_i_after:.3f}" if c.clip_i_after is not None else "no CLIP to score it"
        print(f"{c.token} {score}")


def _rename(args):
    from . import rename

    _, session = _open(args)
    renamed = rename(session, args.name, args.to)
    renamed.save(args.session)
    print(f"{session.concept(args.name).token} is now {renamed.tokens[session.tokens.index(session.concept(args.name).token)]}")


def _reorder(args):
    from . import reorder

    _, session = _open(args)
    reordered = reorder(session, args.names)
    reordered.save(args.session)
    print(f"the order is now {', '.join(reordered.tokens)}")


def _merge(args):
    from . import Session, compared, merge

    base, session = _open(args)
    other = Session.load(args.other, base)
    both = merge(session, other)
    _new(args.out)
    both.save(args.out)
    shared = len(session.delta) + len(other.delta) - len(both.delta)
    print(f"{', '.join(both.tokens)} in `{args.out}`: {len(both.delta):,} changed weights, {shared:,} of them in both sessions")
    _lost(compared(base, session, both) + compared(base, other, both))


def _new(folder: Path):
    """Raises FileExistsError when there is something in `folder`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"`{folder}` is there already: choose a new folder")


def _shown(parts, what: str):
    """What `parts` return, with a bar of how far they are."""
    with tqdm(total=1.0, desc=what, leave=False, bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining} left") as bar:
        while True:
            try:
                bar.update(next(parts) - bar.n)
            except StopIteration as end:
                return end.value


def _export(args):
    from .export import exporting

    base, session = _open(args)
    about = _shown(exporting(base, session, args.kind, args.out, args.rank), "exporting")
    error = f", relative error {about['relative_error']:.1%} at rank {about['rank']}" if "relative_error" in about else ""
    print(f"{', '.join(about['tokens'])} exported to `{args.out}`: {len(about['files'])} files, {sum(about['files'].values()):,} bytes{error}")


def _push(args):
    from .export import exporting
    from .store.push import client, own_token, pushing

    api = client(args.repo, own_token())
    base, session = _open(args)
    with tempfile.TemporaryDirectory() as folder:
        about = _shown(exporting(base, session, args.kind, out := Path(folder) / "cns", args.rank), "exporting")
        url = _shown(pushing(out, session, about, args.repo, api, not args.public), "uploading")
    print(f"{', '.join(about['tokens'])} pushed to {url}")


def _import(args):
    from . import load_base, load_export

    session = load_export(args.folder, load_base(args.base))
    _new(args.session)
    session.save(args.session)
    print(f"{', '.join(session.tokens)} imported into `{args.session}`")


def _bench(args):
    if args.what == "load":
        from .bench.load import Crowd, load

        load(args.base, Crowd(**{n: v for n in ("visitors", "teachers", "requests") if (v := getattr(args, n)) is not None}))
        return
    if args.what == "continual":
        from .bench.continual import continual

        continual(args)
    elif args.what == "ablations":
        from .bench.ablations import ablations

        ablations(args)
    elif args.what == "search":
        from .bench.search import run

        run(args)
    elif args.what == "multi":
        from .bench.multi import multi

        multi(args)
    elif args.what == "store":
        from .bench.store import store

        store(args.base)
    else:
        from .bench.sizes import RANDOM

        if args.base in RANDOM or args.diffusers:
            from .bench.peers import side_by_side

            side_by_side(args.base, args.size, args.steps, args.diffusers)
        else:
            from .bench.speed import speed

            speed(args.base)


COMMANDS = {
    "teach": _teach, "generate": _generate, "inspect": _inspect, "info": _info, "forget": _forget, "rename": _rename, "reorder": _reorder,
    "merge": _merge, "export": _export, "push": _push, "import": _import, "bench": _bench,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
