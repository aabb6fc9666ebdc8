"""Every rule is tested twice: the product holds, and a part that is wrong on purpose (lab/mutants) fails the same scenario."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

T = TypeVar("T")


async def holds_and_variant_fails(
    scenario: Callable[[T], Awaitable[None]],
    product: T,
    variant: T,
    fails_with: type[BaseException] | tuple[type[BaseException], ...] = AssertionError,
) -> None:
    """Runs ``scenario`` with the product, which must pass, then with the wrong variant, which must raise ``fails_with``."""
    await scenario(product)
    with pytest.raises(fails_with):
        await scenario(variant)
