"""The top of the page: each run's result, and how it was trained."""

from collections.abc import Sequence

import alexnet
from alexnet.config import TrainConfig
from alexnet.errors import UserError
from alexnet.preprocess import Preprocess
from alexnet.report.page.html import Html, clean, joined, scrolled, tag
from alexnet.report.page.subject import Subject
from alexnet.scores import LISTED
from alexnet.weights.core import show


def section(subjects: Sequence[Subject], device: str) -> Html:
    """Cards with results, and a table with configurations."""
    rows: dict[str, list[object]] = {}
    for place, subject in enumerate(subjects):
        for label, value in facts(subject).items():
            rows.setdefault(label, [""] * len(subjects))[place] = value
    cells = [tag("th", "", scope="col")] + [tag("th", s.name, scope="col") for s in subjects]
    body = [
        tag(
            "tr",
            tag("th", label, scope="row"),
            [tag("td", value) for value in values],
            class_="differs" if len(set(map(str, values))) > 1 else None,
        )
        for label, values in rows.items()
    ]
    whole = tag(
        "table",
        tag("caption", "Configuration"),
        tag("thead", tag("tr", cells)),
        tag("tbody", body),
        class_="facts",
    )
    made = f"Page made by alexnet {alexnet.__version__}" + (f" with {device}." if device else ".")
    return joined(
        tag(
            "div", (card(subject, place) for place, subject in enumerate(subjects)), class_="cards"
        ),
        scrolled("Configuration", whole),
        tag("p", made, class_="note"),
    )


def card(subject: Subject, place: int) -> Html:
    """A run's last evaluation in large figures."""
    evals = [r for r in subject.metrics if r["split"] == "eval" and "top1" in r]
    heading = tag("h3", tag("span", class_=f"swatch s{place}", aria_hidden="true"), subject.name)
    if not evals:
        text = "no evaluation yet" if subject.config else "weights without a log of their training"
        return tag("article", heading, tag("p", text, class_="missing"), class_="card")
    last, best = evals[-1], max(evals, key=lambda record: record["top1"])
    small = [f"loss {last.get('loss', float('nan')):.4f}", f"step {int(last['step']):,}"]
    few = subject.spec is not None and subject.spec.num_classes <= LISTED  # top-5 is 100 %
    if "top5" in last and not few:
        small.insert(0, f"top-5 {100 * last['top5']:.2f} %")
    if "count" in last:
        small.append(f"{int(last['count']):,} examples")
    if best["top1"] > last["top1"]:
        small.append(f"best {100 * best['top1']:.2f} % at step {int(best['step']):,}")
    return tag(
        "article",
        heading,
        tag("p", f"{100 * last['top1']:.2f} %", tag("small", " top-1"), class_="figure"),
        tag("p", " · ".join(small), class_="note"),
        class_="card",
    )


def facts(subject: Subject) -> dict[str, object]:
    """The facts about a run or file, in reading order."""
    found: dict[str, object] = {}
    if spec := subject.spec:
        found["network"] = clean(
            f"{spec.name}, {show((spec.image_size, spec.image_size, spec.channels))} input, "
            f"{spec.num_classes:,} classes"
        )
        found["parameters"] = f"{spec.num_params:,}"
    if subject.config:
        found = {"network": subject.config.model.variant} | found | _configured(subject)
    if subject.weights:
        found["weights"] = clean(subject.weights.source or subject.path.name)
        found["preprocessing"] = preprocessing(subject.weights.preprocess)
    if subject.dataset and not subject.config:
        found["data"] = clean(subject.dataset.name)
    return found


def _configured(subject: Subject) -> dict[str, object]:
    config: TrainConfig = subject.config  # type: ignore[assignment]
    data, optim = config.data, config.optim
    steps = max((int(record["step"]) for record in subject.metrics), default=0)
    asked = f"{config.run.steps:,} steps" if config.run.steps else f"{config.run.epochs:g} epochs" \
        if config.run.epochs else "no length given"  # fmt: skip
    views = [f"{data.train_crop} crops", "mirrored" if data.flip else "not mirrored"]
    return {
        "data": clean(data.dataset),
        "recipe": clean(config.recipe),
        "framework": f"{config.framework}, {config.model.precision}",
        "length": f"{steps:,} steps logged; {asked} of {data.batch_size} examples",
        "optimizer": f"{optim.rule}, rate {optim.learning_rate:g}, momentum {optim.momentum:g}, "
        f"decay {optim.weight_decay:g}, {optim.schedule}",
        "training views": ", ".join(views)
        + (f", color noise {data.color_noise:g}" if data.color_noise else ""),
        "preprocessing": _own_preprocessing(config),
        "seed": config.run.seed,
    }


def _own_preprocessing(config: TrainConfig) -> str:
    try:
        return preprocessing(config.preprocess)
    except UserError as error:  # its mean image is gone, and the page has more to show
        return clean(str(error))


def preprocessing(found: Preprocess) -> str:
    """Geometry and normalization in words."""
    protocol, normalize = found.protocol, found.normalize
    side = "short side" if protocol.resize_rule == "short" else "both sides"
    mean, std = (
        "/".join(f"{n:g}" for n in (ns[:1] if len(set(ns)) == 1 else ns[:4]))
        for ns in (normalize.mean, normalize.std)
    )
    return (
        f"{side} to {protocol.resize_to}, {protocol.crop} from the center, "
        f"{normalize.channel_order}, minus {'a mean image of ' if normalize.image else ''}{mean}, "
        f"over {std}"
    )
