"""An option of a scoring run is one fact: wherever it is written, it is written alike."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pytest

import prospr_ops as po
from prospr_ops.cli import main
from prospr_ops.utils.settings import Settings

OPTIONS = [field.name for field in fields(Settings)]
PYTHON_ONLY: tuple[str, ...] = ()
FUNCTIONS = [po.prune, po.score]
SHARED = [n for n in inspect.signature(po.score).parameters if n != "verbose"]


def described(function) -> dict[str, str]:
    """The Args entries of a function's docstring, each as one line, by name."""
    section = inspect.getdoc(function).split("\nArgs:\n")[1].split("\n\n")[0]
    entries = re.split(r"^    (\w+): ", section, flags=re.MULTILINE)[1:]
    return {
        name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)
    }


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("option", OPTIONS)
def test_default_is_that_of_settings(option, function):
    default = inspect.signature(Settings.of).parameters[option].default
    assert inspect.signature(function).parameters[option].default == default


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_parameter_is_described_in_order(function):
    assert list(described(function)) == list(inspect.signature(function).parameters)


def test_options_are_among_the_shared_parameters():
    assert set(OPTIONS) <= set(SHARED)


@pytest.mark.parametrize("name", SHARED)
def test_prune_and_score_describe_it_alike(name):
    assert described(po.score)[name] == described(po.prune)[name]
    parameters = [inspect.signature(function).parameters[name] for function in FUNCTIONS]
    assert parameters[0] == parameters[1]


def test_command_has_every_option_but_those_of_python_alone(capsys):
    with pytest.raises(SystemExit):
        main(["prune", "--help"])
    usage = capsys.readouterr().out.split("\n\n")[0]
    typed = {name.replace("-", "_") for name in re.findall(r"--([a-z-]+)", usage)}
    assert set(OPTIONS) - typed == set(PYTHON_ONLY)
