"""What gRPC raises leaves as an error of the tree, wherever a stream is read or written: a closed channel is no cancellation."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.unit.layout.tree import PACKAGES, modules

BARE = {
    # Its channel is its own, which it closes itself when the stream has ended; it takes gRPC's errors as they are.
    "stele.services.raft.transport": "every frame of every group passes here",
}


def bare(source: str) -> Iterator[int]:
    """Lines that await ``call.read()`` or ``stream.write(…)`` outside of ``with typed_errors()``."""

    def walk(node: ast.AST, typed: bool) -> Iterator[int]:
        if isinstance(node, ast.With):
            typed = typed or any("typed_errors" in ast.unparse(item.context_expr) for item in node.items)
        match node:
            case ast.Await(
                value=ast.Call(func=ast.Attribute(value=ast.Name(id="call" | "stream"), attr="read" | "write"))
            ):
                if not typed:
                    yield node.lineno
        for child in ast.iter_child_nodes(node):
            yield from walk(child, typed)

    yield from walk(ast.parse(source), False)


def test_streams_are_read_and_written_where_errors_are_typed() -> None:
    found = {name for package in PACKAGES for name, path in modules(package) if any(bare(path.read_text()))}
    assert found == set(BARE)


@pytest.mark.parametrize(
    ("line", "seen"), [("await call.read()", 1), ("with typed_errors():\n    await stream.write(x)", 0)]
)
def test_a_bare_read_is_seen(line: str, seen: int) -> None:
    body = "\n".join(f"    {part}" for part in line.splitlines())
    assert len(list(bare(f"async def f():\n{body}"))) == seen
