"""Cards are shared out one a job, and nothing is touched where somebody has chosen already."""

import os
import subprocess
import sys

import pytest

from medseg import devices


@pytest.fixture
def two_cards(monkeypatch):
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.setattr(devices, "count", lambda: 2)


def test_visible_devices_speak_first(monkeypatch):
    for value, cards in (("", 0), ("-1", 0), ("0", 1), ("3,1", 2), ("0,-1,2", 1), ("MIG-a", 1)):
        monkeypatch.setenv(devices.VISIBLE, value)
        assert devices.count() == cards


@pytest.mark.usefixtures("two_cards")
def test_each_job_holds_a_card_of_its_own(tmp_path):
    code = (
        "import sys; from pathlib import Path; from medseg import devices\n"
        "devices.count = lambda: 2\n"
        "with devices.claim(Path(sys.argv[1])) as card:\n"
        "    sys.stdout.write(f'{card}\\n'); sys.stdout.flush(); sys.stdin.read()\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != devices.VISIBLE}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    cards = {job.stdout.readline().strip() for job in jobs}
    with devices.claim(tmp_path) as third:
        assert cards == {"0", "1"}
        assert third == 0, "with no card free the jobs share, they do not wait for ever"
        assert os.environ[devices.VISIBLE] == "0"
    for job in jobs:
        job.communicate()
    assert devices.VISIBLE not in os.environ


@pytest.mark.usefixtures("two_cards")
def test_a_freed_card_is_taken_again(tmp_path):
    for _ in range(3):
        with devices.claim(tmp_path) as card:
            assert card == 0


@pytest.mark.usefixtures("two_cards")
def test_a_choice_already_made_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv(devices.VISIBLE, "1")
    with devices.claim(tmp_path) as card:
        assert card is None
        assert os.environ[devices.VISIBLE] == "1"
    assert not list(tmp_path.iterdir())


def test_no_card_no_claim(tmp_path, monkeypatch):
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    monkeypatch.setattr(devices, "count", lambda: 0)
    with devices.claim(tmp_path) as card:
        assert card is None
    assert devices.VISIBLE not in os.environ
