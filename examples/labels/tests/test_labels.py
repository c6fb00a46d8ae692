"""The handler, run by the road that it takes in production: JSON in, JSON out."""

import socket
import threading
from collections.abc import Iterator

import pytest
from labels.handler import print_label

from product_live_worker.testkit import Sandbox, run


class Printer:
    """A printer on this machine, for one order; it takes whatever is sent to it."""

    def __init__(self, listening: socket.socket) -> None:
        self.address = f"127.0.0.1:{listening.getsockname()[1]}"
        self._listening = listening
        self._paper = b""
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def paper(self) -> bytes:
        """Wait for the end of the order, and give what was printed."""
        self._thread.join()
        return self._paper

    def _listen(self) -> None:
        connection, _ = self._listening.accept()
        with connection:
            self._paper = b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.fixture
def printer() -> Iterator[Printer]:
    """Give a printer that listens on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Printer(listening)


def test_a_label_is_printed_as_often_as_asked_for(printer: Printer) -> None:
    """Numbers may come as texts, as they do from a job's variables."""
    outcome = run(print_label, {"sku": "A1", "copies": "3"}, settings={"printer": printer.address})
    assert outcome.output == {"printed": 3}
    assert b"^PQ3" in printer.paper()


def test_a_worker_prints_what_a_job_asks_for(sandbox: Sandbox, printer: Printer) -> None:
    """A real worker claims the execution from a Product-Live on this machine."""
    sandbox.serve(print_label, settings={"print_label": {"printer": printer.address}})
    assert sandbox.run(print_label, {"sku": "A1^"}).output == {"printed": 1}
    assert printer.paper() == b"^XA^FO50,50^A0N,40,40^FDA1 ^FS^PQ1^XZ"


def test_a_large_order_is_refused_with_a_reason() -> None:
    """A refusal is FAILED with the author's own code."""
    outcome = run(print_label, {"sku": "A1", "copies": 101})
    assert (outcome.status, outcome.code) == ("FAILED", "too_many")


def test_a_printer_that_cannot_be_used_is_named() -> None:
    """Whoever reads the job learns whom to call."""
    assert run(print_label, {"sku": "A1"}).code == "no_printer"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    outcome = run(print_label, {"sku": "A1"}, settings={"printer": address})
    assert (outcome.code, address in outcome.message) == ("printer_unreachable", True)
