"""`inferplan serve`: a plan's pipeline behind the Open Inference Protocol (KServe v2) over HTTP.

One model, named as the workload, version 1. The ASGI application is bare: the protocol has eight paths, and a
framework would cost more per request than routing and batching together. An inference request with n rows
becomes n pipeline requests, which may share batches with one another and with other clients'.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import inferplan
from inferplan.runner import eventloop, oip
from inferplan.runner.cores import Placing, available_cores, place_replicas
from inferplan.runner.events import Listening, OnEvent, ignore
from inferplan.runner.fleet import Fleet
from inferplan.runner.frames import dump
from inferplan.runner.oip import InferRequest, ProtocolError
from inferplan.runner.pool import Failure
from inferplan.runner.requests import joined, pipeline_code
from inferplan.runner.router import Answers, Done
from inferplan.runner.selection import Asked, Selector, Way, read_parameters
from inferplan.spec.errors import InputError, MissingExtraError
from inferplan.spec.plan import LoadedPlan
from inferplan.spec.stagecode import PipelineAdapter
from inferplan.spec.workload import Workload

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
SubmitAll = Callable[[str, Sequence[bytes], Sequence[Done]], None]

STATUS_OF_FAILURE = {"code": 500, "replica": 503, "unavailable": 503, "shed": 503}
EXTENSIONS = ["binary_tensor_data", "model_configuration", "parameters"]
GRACE_S = 10
BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes. `in_flight` counts pipeline requests (rows), of all clients together."""

    body_bytes: int = 64 * 2**20
    in_flight: int = 1024
    request_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, before it is sent."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Application:
    """The ASGI application. `under_way` tells how many pipeline requests there are, `ready` whether every
    option has a replica; the first of `classes` is the default; `select` finds the way of a request that says what it
    asks for."""

    def __init__(
        self,
        workload: Workload,
        classes: Sequence[str],
        submit_all: SubmitAll,
        select: Callable[[Asked], Way],
        under_way: Callable[[], int],
        ready: Callable[[], bool],
        limits: Limits,
    ) -> None:
        self._model = workload.name
        self._inputs = workload.pipeline.inputs
        self._outputs = workload.pipeline.outputs
        self._adapter: PipelineAdapter = pipeline_code(workload)
        self._classes = classes
        self._submit_all = submit_all
        self._select = select
        self._under_way = under_way
        self._ready = ready
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        try:
            response = await self._answer(scope, receive)
        except ProtocolError as error:
            retry = ((b"retry-after", b"1"),) if error.status == 503 else ()
            response = _json(error.status, {"error": error.message}, retry)
        length = str(len(response.body)).encode()
        headers = [(b"content-length", length), *response.headers]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        parts = str(scope["path"]).strip("/").split("/")
        if parts[0] != "v2":
            raise ProtocolError(404, f"there is nothing at {scope['path']}")
        parts = parts[1:]
        if parts[:1] == ["models"] and len(parts) > 1:
            return await self._model_path(parts[1], parts[2:], scope, receive)
        _expect(scope, "GET")
        if not parts:
            return _json(200, {"name": "inferplan", "version": inferplan.__version__, "extensions": EXTENSIONS})
        if parts == ["health", "live"]:
            return Response(200)
        if parts == ["health", "ready"]:
            return Response(200 if self._ready() else 503)
        raise ProtocolError(404, f"there is nothing at {scope['path']}")

    async def _model_path(self, model: str, rest: Sequence[str], scope: Scope, receive: Receive) -> Response:
        if model != self._model:
            raise ProtocolError(404, f"there is no model {model[:80]!r}; this server has {self._model!r}")
        if rest[:1] == ["versions"] and len(rest) > 1:
            if rest[1] != oip.VERSION:
                raise ProtocolError(404, f"model {model} has no version {rest[1][:40]!r}; it has {oip.VERSION}")
            rest = rest[2:]
        verb = "/".join(rest)
        if verb == "infer":
            _expect(scope, "POST")
            return await self._infer(scope, receive)
        _expect(scope, "GET")
        if verb == "":
            return _json(200, oip.metadata(model, self._inputs, self._outputs))
        if verb == "ready":
            return Response(200 if self._ready() else 503)
        if verb == "config":
            return _json(200, oip.configuration(model, self._inputs, self._outputs, self._limits.in_flight))
        raise ProtocolError(404, f"there is nothing at {scope['path']}")

    async def _infer(self, scope: Scope, receive: Receive) -> Response:
        headers = dict(scope["headers"])
        encoding = headers.get(b"content-encoding", b"identity")
        if encoding != b"identity":
            raise ProtocolError(415, f"content encoding {encoding[:40].decode('latin-1')} is not taken; send it plain")
        body = await self._body(headers, receive)
        length = headers.get(oip.HEADER_LENGTH.encode())
        request = oip.read_request(
            body, None if length is None else length.decode("latin-1"), self._inputs, self._outputs
        )
        key, told = self._way(request)
        tensors = oip.checked_outputs(self._encoded(await self._run(key, request)), self._outputs, request.rows)
        answer, header_length = oip.write_response(self._model, request, tensors, told)
        if header_length is None:
            return Response(200, answer, ((b"content-type", b"application/json"),))
        size = (oip.HEADER_LENGTH.encode(), str(header_length).encode())
        return Response(200, answer, ((b"content-type", b"application/octet-stream"), size))

    def _way(self, request: InferRequest) -> tuple[str, Mapping[str, str | float]]:
        """What the router knows a request's way by, and what the answer says of it."""
        traffic, asked = read_parameters(request.parameters)
        if asked is not None:
            way = self._select(asked)
            return way.key, way.told
        if traffic is None:
            return self._classes[0], {}
        if traffic not in self._classes:
            raise ProtocolError(400, f"unknown traffic_class {str(traffic)[:80]!r}; there are {self._classes}")
        return traffic, {}

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit = self._limits.body_bytes
        too_large = ProtocolError(413, f"the body is larger than the {limit} bytes this server takes")
        claimed = headers.get(b"content-length", b"0")
        if claimed.isdigit() and int(claimed) > limit:
            raise too_large
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ProtocolError(400, "the client went away")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit:
                raise too_large
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def _run(self, traffic: str, request: InferRequest) -> list[Any]:
        """Answers to the rows, in their order."""
        limit = self._limits.in_flight
        if request.rows > limit:
            raise ProtocolError(400, f"{request.rows} rows are more than the {limit} this server takes at once")
        if self._under_way() + request.rows > limit:
            raise ProtocolError(503, f"overloaded: {self._under_way()} requests are under way, at most {limit} are")
        inputs = self._decoded(request)
        gathered = _Gathered(len(inputs))
        self._submit_all(traffic, [dump(item) for item in inputs], gathered.slots())
        try:
            async with asyncio.timeout(self._limits.request_s):
                results = await gathered.future
        except TimeoutError:
            raise ProtocolError(504, f"no answer within {self._limits.request_s:g} s") from None
        try:
            return [joined(self._adapter, item, result) for item, result in zip(inputs, results, strict=True)]
        except Exception as error:
            raise ProtocolError(500, f"joining the answer failed: {type(error).__name__}: {error}") from error

    def _decoded(self, request: InferRequest) -> list[Any]:
        try:
            inputs = self._adapter.decode(request.tensors)
        except (ValueError, InputError) as error:
            raise ProtocolError(400, str(error)) from error
        except Exception as error:
            raise ProtocolError(500, f"the pipeline's decode failed: {type(error).__name__}: {error}") from error
        if len(inputs) != request.rows:
            raise ProtocolError(500, f"the pipeline's decode made {len(inputs)} requests of {request.rows} rows")
        return inputs

    def _encoded(self, answers: list[Any]) -> dict[str, Any]:
        try:
            return self._adapter.encode(answers)
        except Exception as error:
            raise ProtocolError(500, f"the pipeline's encode failed: {type(error).__name__}: {error}") from error


class _Gathered:
    """The results of several requests as one future; the first failure fails it."""

    def __init__(self, count: int) -> None:
        self.future: asyncio.Future[list[Answers]] = asyncio.get_running_loop().create_future()
        self._results: list[Answers] = [{}] * count
        self._left = count

    def slots(self) -> list[Done]:
        """A callback per request."""
        return [partial(self._done, index) for index in range(self._left)]

    def _done(self, index: int, result: Answers | Failure) -> None:
        if self.future.done():  # failed already, or the client has been told to wait no longer
            return
        if isinstance(result, Failure):
            self.future.set_exception(ProtocolError(STATUS_OF_FAILURE[result.kind], result.reason))
            return
        self._results[index] = result
        self._left -= 1
        if not self._left:
            self.future.set_result(self._results)


def _json(status: int, content: object, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
    return Response(status, json.dumps(content).encode(), ((b"content-type", b"application/json"), *headers))


def _expect(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise ProtocolError(405, f"{scope['path']} takes {method}, not {scope['method']}")


def serve_plan(
    loaded: LoadedPlan,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    limits: Limits | None = None,
    oversubscribe: bool = False,
    restart: bool = True,
    start_limit_s: float | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> None:
    """Start the plan's replicas and serve the pipeline until SIGINT or SIGTERM; requests in flight are answered.

    `on_event` gets `Listening` with the URL (port 0 takes a free one). Raises InputError for a workload without
    `pipeline.inputs` and `outputs`, an address that cannot be bound, too few cores (unless `oversubscribe`) and
    replicas that cannot start; MissingExtraError without the `serve` extra.
    """
    try:
        import httptools  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("serve", "serving a plan") from error
    workload = loaded.workload.workload
    if not workload.pipeline.inputs or not workload.pipeline.outputs:
        raise InputError(
            f"{loaded.workload.path}: to be served, `pipeline` needs `inputs` and `outputs`: the tensors of a request"
            " and of its answer"
        )
    placing = place_replicas(loaded, available_cores(), oversubscribe=oversubscribe)
    fleet_options = {
        "seed": seed,
        "restart": restart,
        "start_limit_s": workload.profile.load_timeout_s if start_limit_s is None else start_limit_s,
    }
    with _bound(host, port) as sock:
        eventloop.run(lambda: _serve(loaded, placing, sock, limits or Limits(), fleet_options, on_event))


async def _serve(
    loaded: LoadedPlan,
    placing: Placing,
    sock: socket.socket,
    limits: Limits,
    fleet_options: dict[str, Any],
    on_event: OnEvent,
) -> None:
    import uvicorn

    class Server(uvicorn.Server):  # type: ignore[misc, unused-ignore]
        """uvicorn without its signal handling, which would raise the signal again once it is done."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    async with Fleet(loaded, placing, on_event=on_event, **fleet_options) as fleet:
        application = Application(
            loaded.workload.workload,
            [name for name in loaded.workload.workload.classes if name in loaded.plan.classes],
            fleet.router.submit_all,
            Selector(loaded.plan, loaded.workload.workload, fleet.waiting).choose,
            lambda: fleet.router.under_way,
            lambda: fleet.ready,
            limits,
        )
        server = Server(
            uvicorn.Config(
                application,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        with _ended_by_signals(server):
            host, port = sock.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            on_event(Listening(f"http://{shown}:{port}"))
            await server.serve(sockets=[sock])


@contextlib.contextmanager
def _ended_by_signals(server: Any) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the server in order, a second one at once."""

    def end() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    loop = asyncio.get_running_loop()
    handled: list[signal.Signals] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        # Handlers can be set in the main thread only; elsewhere whoever runs us must end us.
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            loop.add_signal_handler(number, end)
            handled.append(number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # The protocol must be named: asyncio turns Nagle's algorithm off only for sockets that say they are TCP,
        # and with it every answer of two packets (head, body) waits 40 ms for the client's delayed acknowledgement.
        sock = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen at {host}:{port}: {error}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise InputError(f"cannot listen at {host}:{port}: {error}") from error
    return sock
