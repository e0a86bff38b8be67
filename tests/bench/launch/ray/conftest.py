"""One Ray cluster for all tests of a process; those that need its nodes are soak tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test with nodes of its own waits for them to start, and often to be found dead: `make test-all` has it."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.soak)


@pytest.fixture(scope="session")
def head() -> Iterator[Any]:
    """A cluster of a head without cores, as processes of this machine."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def cluster(head: Any) -> Iterator[Any]:
    """The head, to which a test adds nodes; they are removed after it."""
    yield head
    for node in list(head.worker_nodes):
        head.remove_node(node)
    head.wait_for_nodes(timeout=60)
