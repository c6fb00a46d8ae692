"""The handler `http`, against real servers."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from product_live_handlers.http import http
from product_live_worker.model.errors import SettingsError
from product_live_worker.testkit import Outcome, Trial
from support.raw_server import CA_FILE, CERTIFICATES


@dataclass
class Seen:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What is answered."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Endpoint:
    """A server that answers as the test says."""

    port: int
    seen: list[Seen]
    answers: Callable[[Seen], Answer]

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        """Give an address of it."""
        return f"{scheme}://{host}:{self.port}{path}"


@contextmanager
def serving(answers: Callable[[Seen], Answer], *, tls: bool = False) -> Iterator[Endpoint]:
    """Serve on a port of this machine while the block runs."""
    endpoint = Endpoint(0, [], answers)

    class OneRequest(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen = Seen(self.command, self.path, dict(self.headers.items()), body)
            endpoint.seen.append(seen)
            answer = endpoint.answers(seen)
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 (their names)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), OneRequest) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATES / "platform.test.pem")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        endpoint.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()


def call(url: str, input: Any = None, **settings: Any) -> Outcome:
    """Call an address as the task would."""
    return Trial(settings={"url": url, **settings}).run(http, {} if input is None else input)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_the_input_is_sent_as_json_and_the_answer_is_the_output(method: str) -> None:
    """As it came, with the headers of the settings and a key that a retry repeats."""
    given = {"sku": "é", "eventCorrelationId": "c1"}
    with serving(lambda _: Answer(201, {"stock": 3})) as endpoint:
        outcome = call(endpoint.url("/a?b=1"), given, method=method, headers={"X-Api-Key": "hush-hush"})
        again = call(endpoint.url("/a?b=1"), given, method=method)
    assert outcome == again == Outcome.completed({"stock": 3})
    seen, second = endpoint.seen
    assert (seen.method, seen.target, json.loads(seen.body)) == (method, "/a?b=1", given)
    assert (seen.headers["X-Api-Key"], seen.headers["Content-Type"]) == ("hush-hush", "application/json")
    assert seen.headers["Idempotency-Key"] == second.headers["Idempotency-Key"] != ""


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_question_carries_the_input_as_parameters(method: str) -> None:
    """Beside those of the address; the platform's own keys and what is null are left out."""
    given = {"sku": "a&b=c/../d", "rows": 3, "all": True, "no": None, "eventCorrelationId": "c1", "context": {}}
    with serving(lambda _: Answer(200, {"stock": 3})) as endpoint:
        assert call(endpoint.url("/a?b=1"), given, method=method).output == {"stock": 3}
        refused = call(endpoint.url("/a"), {"sku": ["x"]}, method=method)
    (seen,) = endpoint.seen
    assert (seen.method, seen.target) == (method, "/a?b=1&sku=a%26b%3Dc%2F..%2Fd&rows=3&all=true")
    assert (refused.code, "sku" in refused.message) == ("invalid_input", True)


def test_an_answer_without_a_body_is_an_empty_output() -> None:
    """As after a 204."""
    with serving(lambda _: Answer(204, b"")) as endpoint:
        assert call(endpoint.url()) == Outcome.completed({})


@pytest.mark.parametrize(("body", "said"), [(b"<html>", "no JSON"), (b"[1]", "found list"), (b"3", "found int")])
def test_an_answer_that_is_no_object_is_no_success(body: bytes, said: str) -> None:
    """A page of a proxy's, for example."""
    with serving(lambda _: Answer(200, body)) as endpoint:
        outcome = call(endpoint.url())
    assert (outcome.code, said in outcome.message) == ("invalid_output", True)


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "http_refused"), (404, "http_refused"), (408, "http_failed"), (429, "http_failed"), (503, "http_failed")],
)
def test_a_refusal_is_reported_with_its_reason(status: int, code: str) -> None:
    """The endpoint's own words are in the output, without what it repeats of our headers."""
    reason = {"error": "no such sku", "you_sent": "Bearer hush-hush"}
    with serving(lambda _: Answer(status, reason)) as endpoint:
        outcome = call(endpoint.url(), headers={"Authorization": "Bearer hush-hush"})
    assert (outcome.code, outcome.output["status_code"]) == (code, status)
    assert outcome.output["answer"] == {"error": "no such sku", "you_sent": "***"}
    assert str(status) in outcome.message


def test_a_refusal_that_is_a_page_is_not_repeated() -> None:
    """Only a reason in JSON, and a short one."""
    with serving(lambda _: Answer(500, b"<html>")) as endpoint:
        assert "answer" not in call(endpoint.url()).output
        endpoint.answers = lambda _: Answer(500, {"x": "x" * 20_000})
        assert "answer" not in call(endpoint.url()).output


def test_an_answer_that_is_too_large_is_not_read() -> None:
    """However large it is."""
    with serving(lambda _: Answer(200, b"x" * 5_000_000)) as endpoint:
        outcome = call(endpoint.url(), max_response=1000)
    assert (outcome.code, "1000 bytes" in outcome.message) == ("http_response_too_large", True)


def test_a_silent_endpoint_is_given_up() -> None:
    """After the time of the settings."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        outcome = call(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)
    assert (outcome.code, "0.1 s" in outcome.message) == ("http_timeout", True)


def test_an_endpoint_that_is_not_there_is_told() -> None:
    """By its host."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    outcome = call(f"http://127.0.0.1:{port}")
    assert (outcome.code, "127.0.0.1 cannot be reached" in outcome.message) == ("http_unreachable", True)


def test_a_redirect_is_followed_on_the_same_host_with_the_same_method() -> None:
    """With its body, and with the headers as long as the origin is the same."""
    with serving(lambda seen: Answer(307, b"", {"Location": "/b"}) if seen.target == "/a" else Answer(200)) as endpoint:
        assert call(endpoint.url("/a"), {"x": 1}, headers={"X-Api-Key": "hush"}).output == {}
    first, second = endpoint.seen
    assert (second.method, second.target, second.body) == ("POST", "/b", first.body)
    assert second.headers["X-Api-Key"] == "hush"


def test_a_redirect_to_another_host_is_followed_only_if_it_is_allowed_and_never_with_the_headers() -> None:
    """The key is for the endpoint alone, and so is the input unless the settings say otherwise."""
    with serving(lambda _: Answer(200, {"from": "other"})) as other:
        there = {"Location": other.url("/there", host="localhost")}
        with serving(lambda _: Answer(308, b"", there)) as endpoint:
            refused = call(endpoint.url(), {"x": 1}, headers={"X-Api-Key": "hush"})
            assert (refused.code, refused.output["status_code"]) == ("http_redirect", 308)
            assert "localhost" in refused.message
            assert not other.seen
            allowed = call(endpoint.url(), {"x": 1}, headers={"X-Api-Key": "hush"}, allowed_hosts=["LOCALHOST"])
    assert allowed.output == {"from": "other"}
    (seen,) = other.seen
    assert "X-Api-Key" not in seen.headers


def test_another_port_of_the_same_host_does_not_get_the_headers() -> None:
    """It is another program."""
    with (
        serving(lambda _: Answer(200)) as other,
        serving(lambda _: Answer(307, b"", {"Location": other.url()})) as endpoint,
    ):
        call(endpoint.url(), headers={"X-Api-Key": "hush"})
    assert "X-Api-Key" not in other.seen[0].headers


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_turn_a_post_into_a_get_is_not_followed(status: int) -> None:
    """The input would be lost, and the answer look like a success."""
    with serving(lambda _: Answer(status, b"", {"Location": "/b"})) as endpoint:
        assert call(endpoint.url("/a")).code == "http_redirect"
    assert len(endpoint.seen) == 1


def test_redirects_come_to_an_end() -> None:
    """A circle is a failure."""
    with serving(lambda _: Answer(307, b"", {"Location": "/"})) as endpoint:
        outcome = call(endpoint.url())
    assert (outcome.code, len(endpoint.seen)) == ("http_redirect", 6)


def test_tls_is_verified_with_the_systems_authorities_and_that_of_the_settings() -> None:
    """A certificate that nobody vouches for is refused; a redirect never leaves TLS."""
    with serving(lambda _: Answer(200, {"stock": 3}), tls=True) as endpoint:
        assert call(endpoint.url(scheme="https")).code == "http_unreachable"
        assert call(endpoint.url(scheme="https"), ca_file=str(CA_FILE)).output == {"stock": 3}
        endpoint.answers = lambda _: Answer(307, b"", {"Location": "http://127.0.0.1:1/"})
        assert call(endpoint.url(scheme="https"), ca_file=str(CA_FILE)).code == "http_redirect"


def test_the_environments_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint is in the same network; the proxy is the way out of it."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with serving(lambda _: Answer(200, {"stock": 3})) as endpoint:
        assert call(endpoint.url()).output == {"stock": 3}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "url: Field required"),
        ({"url": "stock.internal"}, "address"),
        ({"url": "ftp://stock.internal"}, "address"),
        ({"url": "https://{host}/x"}, "address"),
        ({"url": "http://[::bad"}, "address"),
        ({"url": "https://me:hush-hush@stock.internal"}, "no user and password"),
        ({"url": "http://a", "method": "TRACE"}, "method"),
        ({"url": "http://a", "headers": {"Host": "b"}}, "Host"),
        ({"url": "http://a", "headers": {"X-Key": "hush-hush\r\nX-B: 1"}}, "X-Key must be printable"),
        ({"url": "http://a", "timeout": 0}, "greater than 0"),
        ({"url": "http://a", "ca_file": "/nowhere.pem"}, "ca_file"),
        ({"url": "http://a", "uri": "x"}, "uri"),
    ],
)
def test_settings_that_cannot_be_used_are_told(given: dict[str, Any], said: str) -> None:
    """Each with its name and what is allowed, none with its value."""
    with pytest.raises(SettingsError) as refused:
        Trial(settings=given).run(http, {"url": "http://elsewhere", "host": "elsewhere"})
    assert (said in str(refused.value), "hush" in str(refused.value)) == (True, False)


def test_what_is_logged_holds_neither_keys_nor_inputs() -> None:
    """The host, the method and the status are enough."""
    trial = Trial()
    with serving(lambda _: Answer(200)) as endpoint:
        trial.settings = {"url": endpoint.url(), "method": "GET", "headers": {"X-Api-Key": "hush-hush"}}
        trial.run(http, {"sku": "secret-sku"})
    (line,) = trial.lines
    assert line.fields == {"host": "127.0.0.1", "method": "GET", "status": 200}
