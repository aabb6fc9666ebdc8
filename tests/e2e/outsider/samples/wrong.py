"""What strict mypy has to object to: one mistake in each line that says so."""

from __future__ import annotations

import stele


async def send(client: stele.Client) -> None:
    async with client.producer("shop/orders") as producer:
        await producer.send("text")  # wrong
        await producer.send(b"hello", keys=b"k")  # wrong
    found: int = await client.admin.list_topics()  # wrong
    print(found)
    with stele.sync.connect(6600) as blocking:  # wrong
        blocking.admin.create_topics("shop/orders")  # wrong
    raise stele.TopicMissing("no such error")  # wrong
