"""The whole page, section by section; a sentence replaces each section that can't be shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alexnet.errors import RunError, UserError
from alexnet.report.page import (
    activations,
    classes,
    curves,
    diagram,
    examples,
    features,
    filters,
    header,
    neighbours,
    occlusion,
    patches,
)
from alexnet.report.page.document import Section, document
from alexnet.report.page.html import Html, clean, joined, tag
from alexnet.report.page.network import Network, convolutions, spread, start
from alexnet.report.page.predictions import collect
from alexnet.report.page.subject import Subject
from alexnet.scores import Predictions
from alexnet.trained import framework_for

Note = Callable[[str], None]
FILTERS = 4  # runs whose filters are shown


@dataclass(frozen=True)
class Choices:
    """The user's choices."""

    framework: str | None = None
    examples: int = 10_000
    only_errors: bool = False
    layer: str | None = None


def build(subjects: Sequence[Subject], choices: Choices, note: Note = lambda text: None) -> str:
    """The page, complete.

    Args:
        subjects: all runs; from the filters on, the page shows the first.
        choices: of the user.
        note: called with what is being computed.

    Raises:
        UserError: for a layer that the network doesn't have.
    """
    subject = subjects[0]
    if subject.spec and choices.layer:
        patches.check(subject.spec, choices.layer)
    network, reason = _network(subject, choices)
    device = network.engine.describe() if network else ""
    whole = [
        Section("runs", "Result", _tried(lambda: header.section(subjects, device))),
        Section("curves", "Learning curves", _tried(lambda: curves.section(subjects))),
        Section("network", "The network", _diagram(subject)),
        Section("filters", "First-layer filters", _filters(subjects)),
    ]
    title = " · ".join(s.name for s in subjects)
    first = subject.name if len(subjects) > 1 else None
    return document(title, [*whole, *_computed(subject, network, reason, choices, note)], first)


def _network(subject: Subject, choices: Choices) -> tuple[Network | None, str]:
    """The first run's network, started, or the reason why it can't be."""
    if subject.weights is None:
        return None, subject.missing.get("weights", "there are no weights")
    framework = choices.framework or framework_for(subject.path)
    try:
        return start(subject.weights, framework), ""
    except (UserError, RunError) as error:
        return None, str(error)


def _diagram(subject: Subject) -> Html:
    spec = subject.spec
    return diagram.section(spec) if spec else _missing("the number of classes is not known")


def _filters(subjects: Sequence[Subject]) -> Html:
    """The filters of several runs, one below the other for comparison."""
    if len(subjects) == 1:
        return _filters_of(subjects[0])
    parts = [
        (tag("h3", tag("span", class_=f"swatch s{i}", aria_hidden="true"), s.name), _filters_of(s))
        for i, s in enumerate(subjects[:FILTERS])
    ]
    return joined(*parts)


def _filters_of(subject: Subject) -> Html:
    if subject.weights is None:
        return _missing(subject.missing.get("weights", "there are no weights"))
    return filters.section(subject.weights)


def _computed(
    subject: Subject, network: Network | None, reason: str, choices: Choices, note: Note
) -> list[Section]:
    """The sections that need network and data."""
    titles = {
        "classes": "Classes and confusions",
        "examples": "Mistakes" if choices.only_errors else "Sample predictions",
        "neighbours": "Nearest neighbours",
        "occlusion": "Occlusion maps",
        "patches": "Strongest patches",
        "activations": "Activations",
    }
    reason = reason or subject.missing.get("dataset", "")
    if network is None or reason:
        return [Section(id_, title, _missing(reason)) for id_, title in titles.items()]
    made = _sections(subject, network, choices, note)
    return [Section(id_, title, made[id_]) for id_, title in titles.items()]


def _sections(subject: Subject, network: Network, choices: Choices, note: Note) -> dict[str, Html]:
    dataset = subject.dataset
    assert dataset is not None  # else `missing` says why
    total, spec = len(dataset.eval), network.weights.spec
    asked = min(total, choices.examples)
    predictions: Predictions | None = None
    walked: features.Features | None = None
    layer = choices.layer or (convolutions(spec) or [""])[-1]

    def predicted() -> Predictions:
        nonlocal predictions
        if predictions is None:
            note(f"evaluating {asked:,} examples")
            predictions = collect(network, dataset.eval, spread(total, asked))
        return predictions

    def features_of() -> features.Features:
        nonlocal walked
        if walked is None:
            note(f"looking at {min(len(dataset.train), features.MOST):,} training pictures")
            walked = features.walk(network, dataset.train, layer or None)
        return walked

    def one_picture() -> Html:
        views, number = network.views(dataset.eval, neighbours.of_classes(predicted(), 1))
        label = dataset.eval[int(number[0])][1]
        return activations.section(network, views[0], subject.class_name(label))

    made = {
        "classes": _tried(lambda: classes.section(subject, predicted(), asked, total)),
        "examples": _tried(
            lambda: examples.section(subject, network, predicted(), choices.only_errors)
        ),
        "neighbours": _tried(
            lambda: neighbours.section(subject, network, predicted(), features_of())
        ),
        "patches": _tried(lambda: patches.section(subject, network, features_of(), layer)),
    }
    note("hiding parts of pictures")
    made["occlusion"] = _tried(lambda: occlusion.section(subject, network, predicted()))
    return made | {"activations": _tried(one_picture)}


def _tried(make: Callable[[], Html]) -> Html:
    """Make a section, or a sentence that says why it is missing."""
    try:
        return make()
    except (UserError, RunError, OSError, MemoryError) as error:
        return _missing(str(error) or "there is not enough memory")


def _missing(reason: str) -> Html:
    return tag("p", f"Not shown: {clean(reason, 400)}", class_="missing")
