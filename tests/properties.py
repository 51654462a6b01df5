"""How many examples a property-based test draws: `make test` stays quick, `make test-full` is thorough."""

import os

from hypothesis import settings

SHARE = 1 if "FULL" in os.environ else 3  # Makefile sets it for test-full


def examples(most: int, **options) -> settings:
    """As many examples as `most` in test-full and a third in test; no limit of time on one."""
    return settings(max_examples=most // SHARE, deadline=None, **options)
