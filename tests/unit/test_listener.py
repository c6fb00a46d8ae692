"""An HTTP listener inside the event loop, on real sockets."""

from __future__ import annotations

import signal
import socket

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from product_live_worker.listener import listen
from product_live_worker.model.errors import ListenerError

pytestmark = pytest.mark.anyio
HOST = "127.0.0.1"


async def hello(_: Request) -> Response:
    """Greet."""
    return PlainTextResponse("hello")


async def broken(_: Request) -> Response:
    """Fail."""
    raise RuntimeError("a page that fails")


APP = Starlette(routes=[Route("/", hello), Route("/broken", broken)])


async def get(port: int, path: str = "/", host: str = HOST) -> httpx.Response:
    """Ask the listener for a page."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://{host}:{port}{path}")


async def test_a_free_port_is_chosen_and_given() -> None:
    """Port 0 asks for any free port; what is given is what was bound."""
    async with listen(APP, HOST, 0) as port:
        assert port > 0
        assert (await get(port)).text == "hello"


async def test_an_app_that_says_its_own_time_is_not_corrected() -> None:
    """Each answer has one Date: the listener's, or none of its where the app is left to say it."""
    async with listen(APP, HOST, 0) as port, listen(APP, HOST, 0, dated=False) as undated:
        assert len((await get(port)).headers.get_list("date")) == 1
        assert (await get(undated)).headers.get_list("date") == []


async def test_who_learns_the_port_can_connect_at_once() -> None:
    """The socket listens before the server has come up, so no first probe is refused."""
    async with listen(APP, HOST, 0) as port:
        socket.create_connection((HOST, port), timeout=1).close()


async def test_the_port_is_free_again_after_the_block() -> None:
    """A listener leaves nothing behind, and its port can be taken at once."""
    async with listen(APP, HOST, 0) as port:
        await get(port)
    with pytest.raises(httpx.ConnectError):
        await get(port)
    async with listen(APP, HOST, port) as again:
        assert again == port


async def test_an_error_in_the_block_closes_the_listener() -> None:
    """However the block ends, even before the server has come up, the port is free again."""
    ports: list[int] = []
    with pytest.RaisesGroup(pytest.RaisesExc(ValueError, match="in the block"), allow_unwrapped=True):
        async with listen(APP, HOST, 0) as port:
            ports.append(port)
            raise ValueError("in the block")
    async with listen(APP, HOST, ports[0]):
        pass


async def test_a_cancelled_block_closes_the_listener() -> None:
    """A daemon that is cancelled leaves no socket behind."""
    ports: list[int] = []
    with anyio.CancelScope() as scope:
        async with listen(APP, HOST, 0) as port:
            ports.append(port)
            scope.cancel()
            await anyio.sleep_forever()
    async with listen(APP, HOST, ports[0]):
        pass


async def test_a_port_that_is_taken_is_one_clear_error() -> None:
    """Who starts a second worker reads which address is taken."""
    async with listen(APP, HOST, 0) as port:
        with pytest.raises(ListenerError, match=f"cannot listen on {HOST}:{port}: Address already in use"):
            async with listen(APP, HOST, port):
                pass


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no.such.host.invalid", 0), ("a..b", 0), (HOST, 70000)])
async def test_an_address_that_is_not_ours_is_one_clear_error(host: str, port: int) -> None:
    """An address of another machine, a name that nobody knows, a port that does not exist: all are told alike."""
    with pytest.raises(ListenerError, match=f"cannot listen on {host}:{port}: "):
        async with listen(APP, host, port):
            pass


async def test_an_address_of_the_new_internet_can_be_listened_on() -> None:
    """IPv6 works as IPv4 does."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with listen(APP, "::1", 0) as port:
        assert (await get(port, host="[::1]")).text == "hello"


async def test_the_processes_signals_are_left_alone() -> None:
    """Signals belong to the daemon: a listener that took SIGTERM would stop first and raise it again."""
    wanted = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with listen(APP, HOST, 0) as port:
        await get(port)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == wanted
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == wanted


async def test_a_page_that_fails_is_one_answer_and_no_more() -> None:
    """A defect of a page ends neither the listener nor the worker."""
    async with listen(APP, HOST, 0) as port:
        assert (await get(port, "/broken")).status_code == 500
        assert (await get(port)).text == "hello"


async def test_a_connection_that_says_nothing_does_not_hold_up_the_end() -> None:
    """A client that keeps its connection open cannot keep the worker from leaving."""
    with anyio.fail_after(10):
        async with listen(APP, HOST, 0) as port:
            await get(port)
            idle = socket.create_connection((HOST, port), timeout=1)
        idle.close()
