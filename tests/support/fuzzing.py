"""Trials by chance: FUZZ_SECONDS says for how long each search goes on, FUZZ_SEED repeats one."""

import os
import random
import time

import pytest

SECONDS = float(os.environ.get("FUZZ_SECONDS", "2"))
PATIENCE = pytest.mark.timeout(SECONDS + 120)
SEED = int(os.environ.get("FUZZ_SEED", "7"))


def search(trial, seconds=SECONDS):
    """Call `trial` with a source of chance until it returns something wrong, and return that."""
    chance = random.Random(SEED)
    until = time.monotonic() + seconds
    trials = 0
    while time.monotonic() < until:
        trials += 1
        if found := trial(chance):
            return found
    print(f"{trials} trials with seed {SEED}")
    return None


def finds(trial, trials=20_000):
    """Tell whether so many trials find something, however slow the machine is."""
    chance = random.Random(7)
    return any(trial(chance) for _ in range(trials))
