"""How many examples and cases of a property are tested: `make test` stays quick, `make test-full` is thorough."""

import os
from collections.abc import Iterable

import pytest
from hypothesis import settings

SHARE = 1 if "FULL" in os.environ else 3  # Makefile sets it for test-full


def examples(most: int, **options) -> settings:
    """As many examples as `most` in test-full and a third in test; no limit of time on one."""
    return settings(max_examples=most // SHARE, deadline=None, **options)


def every(step: int, names: Iterable[str]) -> list:
    """All names as parameters, of which `make test` takes every `step`-th."""
    return [pytest.param(name, marks=[pytest.mark.full] * (at % step > 0)) for at, name in enumerate(names)]
