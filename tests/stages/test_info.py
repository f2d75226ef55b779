"""`medseg info`: versions, devices, and what is known to be broken."""

import json
from importlib import metadata
from pathlib import Path

import pytest

from medseg.cli import main
from medseg.stages import info


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these packages are there, in these versions."""

    def pretend(**versions):
        monkeypatch.setattr(info, "_version", lambda name: versions.get(name))
        monkeypatch.setattr(info, "_imports", lambda _: True)

    return pretend


def test_facts_are_json(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == metadata.version("torch")
    assert facts["devices"]["cpu_threads"] >= 1
    assert facts["broken"] == []
    assert facts["missing"] == []


def test_the_workflow_is_found(capsys):
    assert main(["info", "--workflow"]) == 0
    assert Path(capsys.readouterr().out.strip()).name == "Snakefile"


def test_cards_are_counted(capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert main(["info", "--gpus"]) == 0
    assert capsys.readouterr().out == "2\n"


@pytest.mark.parametrize(
    ("torch", "torchvision", "broken"),
    [
        ("2.13.0+cpu", "0.28.0+cpu", False),
        ("2.13.0", "0.28.0", False),
        ("2.13.0+cpu", "0.28.0", True),
        ("2.13.0", "0.27.1", True),
        ("2.10.0+cu128", "0.25.0+cu128", False),
        ("2.13.0", None, False),
    ],
)
def test_a_torchvision_that_does_not_fit_is_told(installed, capsys, torch, torchvision, broken):
    installed(torch=torch, torchvision=torchvision)
    assert main(["info"]) == int(broken)
    assert ("pip uninstall torchvision" in capsys.readouterr().out) is broken


def test_missing_extras_are_told_with_the_cure(monkeypatch, capsys):
    monkeypatch.setattr(info, "_imports", lambda _: True)
    monkeypatch.setattr(info, "_requirements", lambda: (["torch"], {"sky": ["no-such-thing"]}))
    assert main(["info"]) == 0
    assert "pip install 'medseg[sky]'" in capsys.readouterr().out
