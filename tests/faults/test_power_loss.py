"""Power loss at any time: acknowledged changes are present, others complete or absent."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import pytest

from tests.faults.power import fault, losses, record
from tests.proofs import PROVE, Proof, scaled

IMAGES: Final = scaled(short=6, each=200)
CHANGES: Final = 300 if PROVE else 60
CONTROLS: Final = 200  # at most: the first that loses something ends the control
EACH: Final = 200  # images of a recording


@pytest.mark.case(22)
async def test_disk_images_after_power_loss_open_and_are_complete(
    tmp_path: Path, proof: Proof
) -> None:
    """Unsynced writes dropped, torn and reordered: each image opens, the oracle holds."""
    drawn = random.Random(seed := random.randrange(2**32))
    made = dirty = 0
    while made < IMAGES:
        folder = tmp_path / f"recording-{made}"
        folder.mkdir()
        recording = record(folder, CHANGES)
        for loss in losses(recording, min(EACH, IMAGES - made), drawn):
            assert "" == await fault(loss), f"seed {seed}, image {made}"
            made += 1
            dirty += loss.pending > 0
    assert dirty
    proof.done(f"{made} images, {dirty} with operations that were not synced; 0 bad")


@pytest.mark.case(22)
async def test_commits_without_sync_are_lost_on_power_loss(tmp_path: Path, proof: Proof) -> None:
    """Control: with synchronous=NORMAL some image lacks acknowledged changes."""
    drawn = random.Random(seed := random.randrange(2**32))
    recording = record(tmp_path, CHANGES, synchronous="NORMAL")
    tried = 0
    bad: list[str] = []
    for loss in losses(recording, CONTROLS, drawn):
        tried += 1
        if what := await fault(loss):
            bad.append(what)
            if IMAGES < CONTROLS:
                break
    assert bad, f"seed {seed}"
    proof.control(f"with synchronous=NORMAL {len(bad)} of {tried} images are bad")
