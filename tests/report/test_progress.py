"""What a run and the doctor print: numbers that fit a terminal, and nothing that it would obey."""

import dataclasses
import io

import pytest
from rich.console import Console

from alexnet.doctor.finding import WARNING, Finding
from alexnet.loop import Plan
from alexnet.recipes import recipe
from alexnet.report import progress as module
from alexnet.report.doctor import print_findings
from alexnet.report.progress import Progress, summary
from alexnet.run import _headline
from alexnet.text import counted

RECORD = {"step": 123, "loss": 1.23456, "top1": 0.9876, "top5": 1.0, "count": 359,
          "examples_per_second": 1234.5, "learning_rate": 0.01}  # fmt: skip
HOSTILE = "cats\x1b[2J\n\u202e\x07"


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of some width: a function that gives the last frame of a bar shown on it."""

    def show(width, *calls):
        def console(**options):
            return Console(file=io.StringIO(), force_terminal=True, width=width, **options)

        monkeypatch.setattr(module, "Console", console)
        progress = Progress(1000, 352)
        for name, arguments in calls:
            getattr(progress, name)(*arguments)
        (line,) = progress._console.render_lines(progress._bar.get_renderable())
        return "".join(segment.text for segment in line)

    return show


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_bar_shows_step_loss_and_rate_at_any_width(terminal, width):
    line = terminal(width, ("train", (RECORD, True)))
    assert len(line) == width
    for words in ("123/1000", "loss 1.2346", "1234 img/s"):
        assert words in line
    assert line.count("━") + line.count("╸") >= 3
    assert "…" not in line
    assert ("top-1  98.8 %" in line) == ("epoch 1" in line) == (width == 120)


@pytest.mark.parametrize("width", [50, 120])
def test_the_bar_shows_an_evaluation(terminal, width):
    line = terminal(width, ("train", (RECORD, True)), ("evaluating", (64, 359)))
    assert "evaluating 64/359" in line
    assert "…" not in line


def test_top_5_of_five_classes_says_nothing():
    assert "top-5" not in summary(RECORD, 5)
    assert "top-1 98.76 %  top-5 100.00 %" in summary(RECORD, 6)
    assert "(1 example)" in summary(RECORD | {"count": 1}, 5)


def test_notes_of_any_text_reach_no_terminal(capsys):
    Progress(1, 1).note(f"left out: {HOSTILE}")
    out = capsys.readouterr().out
    assert out == "left out: cats\\x1b[2J\\n\\u202e\\x07\n"


def test_findings_of_any_text_reach_no_terminal(capsys):
    print_findings([Finding("data", WARNING, HOSTILE, HOSTILE)])
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x07\u202e")
    assert out.endswith("1 warning\n")


@pytest.mark.parametrize(("number", "noun", "text"), [
    (1, "step", "1 step"), (0, "step", "0 steps"), (1234, "class", "1,234 classes"),
    (1, "class", "1 class"),
])  # fmt: skip
def test_counted(number, noun, text):
    assert counted(number, noun) == text


def headline(classes, **optim):
    config = recipe("digits")
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, **optim))
    spec = config.spec(classes)
    plan = Plan(total_steps=1, steps_per_epoch=1, eval_every=1, checkpoint_every=1)
    return "\n".join(_headline(config, config.open_dataset(), spec, plan))


def test_what_is_hardly_meant_brings_a_warning():
    text = headline(1, warmup_steps=1)
    assert "1 class\n" in text
    assert "1 step of 32" in text
    assert "warning: the data has one class" in text
    assert "warning: --warmup-steps is 1, but the run has 1 step: its learning rate" in text
    assert "warning" not in headline(2, warmup_steps=0)
