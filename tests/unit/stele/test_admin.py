"""What the client refuses before it asks anybody."""

from __future__ import annotations

from typing import Any

import pytest

import stele


@pytest.mark.parametrize("bound", [-1, 1, 1 << 70])
@pytest.mark.parametrize("name", ["retention_bytes", "retention_ms"])
async def test_a_retention_that_makes_no_sense_is_an_invalid_argument(name: str, bound: int) -> None:
    bounds: dict[str, Any] = {name: bound}
    admin = stele.connect("127.0.0.1:1").admin
    with pytest.raises(stele.InvalidArgument, match=f"{name} {bound} is not accepted"):
        await admin.create_namespace("shop", **bounds)
    with pytest.raises(stele.InvalidArgument, match=f"{name} {bound} is not accepted"):
        await admin.create_topic("shop/orders", **bounds)
    with pytest.raises(stele.InvalidArgument, match=f"{name} {bound} is not accepted"):
        await admin.alter_topic("shop/orders", **bounds)
