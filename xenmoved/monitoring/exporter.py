"""Serves metrics by HTTP, with what `prometheus_client` and Python bring for it.

`start_http_server` of `prometheus_client` has a thread for each connection, in which it would
collect: so many, and for as long, as clients like, and each of them reads what the event loop
changes meanwhile. `make_asgi_app` needs a server that is one more dependency. So this is its WSGI
application in Python's server for such: a bounded number of threads, which are given a picture that
was made in the event loop, and only write it out.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import prometheus_client
from prometheus_client.metrics_core import Metric

from xenmoved.config.model import Metrics
from xenmoved.migration.host import Host
from xenmoved.monitoring.metrics import MetricsCollector
from xenmoved.problems import problem
from xenmoved.tasks import wait_through

log = logging.getLogger(__name__)

_ALARM: Final = "metrics"
"""The key of our alarm, which no job has."""
_AGAIN_AFTER: Final = 10.0
_MOST_CLIENTS: Final = 8
_CLIENT_PATIENCE: Final = 10.0
"""Seconds that a client may be silent."""
_LOOP_PATIENCE: Final = 5.0
"""Seconds that the event loop may take for a picture, less than those of a scrape by default."""


class _Busy(Exception):
    """The event loop does not come to it."""


class _Server(ThreadingMixIn, WSGIServer):
    """Has a thread for each of so many connections, and drops further ones."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = _MOST_CLIENTS

    def __init__(self, *arguments: Any) -> None:
        self._room = threading.BoundedSemaphore(_MOST_CLIENTS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client of the metrics went away", exc_info=True)


class _ServerOfIPv6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    """Gives a client up that is silent, and leaves requests out of the log."""

    timeout = _CLIENT_PATIENCE

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug("metrics: %s: %s", self.client_address[0], format % arguments)


class _Pictures:
    """Has the event loop make a picture for whoever asks from another thread."""

    def __init__(self, collector: MetricsCollector) -> None:
        self._collector = collector
        self._loop = asyncio.get_running_loop()

    def collect(self) -> list[Metric]:
        """Return everything. Raises _Busy."""
        asked = asyncio.run_coroutine_threadsafe(self._picture(), self._loop)
        try:
            return asked.result(_LOOP_PATIENCE)
        except (TimeoutError, concurrent.futures.CancelledError):  # it is busy, or ends
            asked.cancel()
            raise _Busy from None

    async def _picture(self) -> list[Metric]:
        return self._collector.collect()


async def serve(host: Host, collector: MetricsCollector) -> None:
    """Serve metrics where the configuration says, for ever.

    Where that cannot be, there is an alarm, and it is tried again: it keeps no guest from moving.
    """
    configured = host.config.metrics
    application = _application(collector)
    while True:
        try:
            server = await asyncio.to_thread(_listen, configured, application)
            break
        except OSError as error:
            known = error.errno is not None and error.errno > 0
            reason = os.strerror(error.errno or 0) if known else error.strerror
            where = f"{configured.address} port {configured.port}"
            text = f"metrics cannot be served at {where}: {reason}; tried again all the time"
            if _ALARM not in host.alarms:
                log.error("%s", text)
            hint = "see `metrics` in the configuration: a change takes a restart"
            host.alarms[_ALARM] = problem("unfinished", text, hint)
        await asyncio.sleep(_AGAIN_AFTER)
    host.alarms.pop(_ALARM, None)
    log.info("metrics are served at %s port %d", *server.server_address[:2])
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await wait_through(asyncio.to_thread(server.shutdown))
        server.server_close()


def _application(collector: MetricsCollector) -> Callable[..., Iterable[bytes]]:
    registry = prometheus_client.CollectorRegistry(support_collectors_without_names=True)
    registry.register(_Pictures(collector))
    prometheus_client.ProcessCollector(registry=registry)
    rendering = prometheus_client.make_wsgi_app(registry)

    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        try:
            # It begins to answer only when all is collected.
            answer: Iterable[bytes] = rendering(environ, start_response)
        except _Busy:
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            answer = [b"xenmoved is too busy\n"]
        return answer

    return application


def _listen(configured: Metrics, application: Callable[..., Iterable[bytes]]) -> WSGIServer:
    """Return the server, which listens. Raises OSError. Blocks while a name is looked up."""
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(
        configured.address, configured.port, type=socket.SOCK_STREAM, flags=flags
    )
    family, _, _, _, address = found[0]
    kind = _ServerOfIPv6 if family == socket.AF_INET6 else _Server
    return make_server(str(address[0]), configured.port, application, kind, _Handler)
