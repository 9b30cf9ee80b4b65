"""The protocol over real HTTP: what a client may ask, what it may get wrong, and the real Triton client."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferplan.runner.server import _bound, serve_plan
from inferplan.spec.errors import InputError
from inferplan.spec.plan import LoadedPlan

Deploy = Callable[..., LoadedPlan]
StartServer = Callable[[LoadedPlan], tuple[subprocess.Popen[str], str]]
Reply = tuple[int, Any]


@pytest.fixture(scope="module")
def server(
    deploy_in: Deploy, start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    folder = tmp_path_factory.mktemp("served")
    process, url = start_server(deploy_in(folder, "scale", classes=("slow", "web")))
    yield process, url
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


@pytest.fixture(scope="module")
def url(server: tuple[subprocess.Popen[str], str]) -> str:
    return server[1]


def ask(url: str, body: bytes | None = None, headers: dict[str, str] | None = None, method: str | None = None) -> Reply:
    request = urllib.request.Request(url, data=body, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            text = response.read()
            return response.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        text = error.read()
        return error.code, json.loads(text) if text else None


def infer(url: str, content: object) -> Reply:
    return ask(f"{url}/v2/models/scale/infer", json.dumps(content).encode())


def rows(*values: float, **more: Any) -> dict[str, Any]:
    """A request whose row i is four times values[i]."""
    data = [[value] * 4 for value in values]
    entry = {"name": "x", "datatype": "FP32", "shape": [len(values), 4], "data": data}
    return {"inputs": [entry], **more}


def test_metadata_and_health(url: str) -> None:
    status, about = ask(f"{url}/v2")
    assert (status, about["name"]) == (200, "inferplan")
    assert "binary_tensor_data" in about["extensions"]
    for path in ("health/live", "health/ready", "models/scale/ready", "models/scale/versions/1/ready"):
        assert ask(f"{url}/v2/{path}") == (200, None)
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    for path in ("models/scale", "models/scale/versions/1"):
        status, model = ask(f"{url}/v2/{path}")
        assert (status, model["name"], model["versions"], model["inputs"]) == (200, "scale", ["1"], [tensor])
    status, config = ask(f"{url}/v2/models/scale/config")
    assert (status, config["max_batch_size"]) == (200, 64)
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]


def test_a_request_of_several_rows_is_answered_row_by_row(url: str) -> None:
    status, answer = infer(url, rows(1, 2.5, 3, id="mine", parameters={"traffic_class": "web"}))
    assert status == 200
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine", "scale", "1")
    [output] = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [3, 4])
    assert output["data"] == [2.0] * 4 + [5.0] * 4 + [6.0] * 4


GOOD = rows(1)["inputs"][0]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([], "JSON object"),
        ({}, "inputs must be a list"),
        ({"inputs": [{**GOOD, "name": "z"}]}, "unknown input 'z'; expected x"),
        ({"inputs": [GOOD, GOOD]}, "given twice"),
        ({"inputs": [{**GOOD, "datatype": "INT32"}]}, "datatype INT32, expected FP32"),
        ({"inputs": [{**GOOD, "shape": [1, 5]}]}, "shape [1, 5], expected [-1, 4]"),
        ({"inputs": [{**GOOD, "shape": [1, 4, 1]}]}, "expected [-1, 4]"),
        ({"inputs": [{**GOOD, "shape": [-1, 4]}]}, "expected [-1, 4]"),
        ({"inputs": [{**GOOD, "shape": [True, 4]}]}, "expected [-1, 4]"),
        ({"inputs": [{**GOOD, "shape": [0, 4], "data": []}]}, "no rows"),
        ({"inputs": [{**GOOD, "shape": [2, 4]}]}, "4 elements; shape [2, 4] needs 8"),
        ({"inputs": [{**GOOD, "shape": [10**15, 4]}]}, "needs 4000000000000000"),
        ({"inputs": [{**GOOD, "data": [[1, 2], [3]]}]}, "not a regular array"),
        ({"inputs": [{**GOOD, "data": ["1", "2", "3", "4"]}]}, "does not fit FP32"),
        ({"inputs": [{**GOOD, "data": [None, 1, 2, 3]}]}, "does not fit FP32"),
        ({"inputs": [{**GOOD, "data": 7}]}, "must be a list"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 16}}]}, "both data and binary"),
        ({"inputs": [{k: v for k, v in GOOD.items() if k != "data"}]}, "neither data nor"),
        (rows(1, outputs=[{"name": "z"}]), "unknown output 'z'"),
        (rows(1, outputs=[{"name": "y", "parameters": {"classification": 3}}]), "classification"),
        (rows(1, parameters={"traffic_class": "vip"}), "unknown traffic_class 'vip'"),
        (rows(1, parameters={"binary_data_output": "yes"}), "must be true or false"),
        (rows(1, id=7), "id must be a string"),
        (rows(*range(65)), "65 rows are more than the 64"),
        (rows(-3), "x must not be -3"),
    ],
)
def test_wrong_requests_are_refused_with_the_reason(url: str, content: object, complaint: str) -> None:
    status, answer = infer(url, content)
    assert status == 400
    assert complaint in answer["error"]


def test_wrong_places_and_methods(url: str) -> None:
    assert ask(f"{url}/v2/models/other")[0] == 404
    assert ask(f"{url}/v2/models/other/infer", b"{}") == (
        404, {"error": "there is no model 'other'; this server has 'scale'"},
    )  # fmt: skip
    for path in ("v2/models/scale/versions/2", "v2/models/scale/x", "v2/models", "v2/health", "v1/models", ""):
        assert ask(f"{url}/{path}")[0] == 404, path
    assert ask(f"{url}/v2/models/scale/infer")[0] == 405
    assert ask(f"{url}/v2", b"{}")[0] == 405


def test_bodies_too_large_or_encoded_are_refused(url: str) -> None:
    infer_url = f"{url}/v2/models/scale/infer"
    assert ask(infer_url, b" " * 200_001)[0] == 413
    assert ask(infer_url, b"x", {"Content-Encoding": "gzip"})[0] == 415
    assert ask(infer_url, b"{}", {"Inference-Header-Content-Length": "3"})[0] == 400
    assert ask(infer_url, b"[" * 100_000)[0] == 400


def test_chunked_bodies_are_counted_as_they_come(url: str) -> None:
    import http.client

    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    connection.request(
        "POST", "/v2/models/scale/infer", body=iter([b" " * 50_000] * 5), encode_chunked=True,
        headers={"Transfer-Encoding": "chunked"},
    )  # fmt: skip
    assert connection.getresponse().status == 413


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
mangled = st.fixed_dictionaries(
    {"name": st.just("x") | json_values, "datatype": st.just("FP32") | json_values},
    optional={"shape": st.just([1, 4]) | json_values, "data": st.just([1, 2, 3, 4]) | json_values,
              "parameters": st.fixed_dictionaries({"binary_data_size": json_values})},
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entry=mangled,
    more=st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), json_values, max_size=2),
    tail=st.binary(max_size=20),
)
def test_no_request_whatever_breaks_the_server(url: str, entry: Any, more: Any, tail: bytes) -> None:
    head = json.dumps({"inputs": [entry], **more}).encode()
    status, answer = ask(
        f"{url}/v2/models/scale/infer", head + tail, {"Inference-Header-Content-Length": str(len(head))}
    )
    assert status in (200, 400), answer
    assert "outputs" in answer if status == 200 else answer["error"]


def test_a_stage_that_fails_on_one_request_fails_that_one_alone(url: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda value: infer(url, rows(value)), [1, -2, 3, 4, -2, 5, 6, 7]))
    assert [status for status, _ in replies] == [200, 500, 200, 200, 500, 200, 200, 200]
    assert replies[1][1] == {"error": "double-only: ValueError: poisoned"}


def test_a_replica_that_dies_is_started_again(server: tuple[subprocess.Popen[str], str]) -> None:
    url = server[1]
    status, answer = infer(url, rows(-1))
    assert status == 503
    assert "double-only[0] was killed by SIGKILL with it in hand" in answer["error"]
    assert infer(url, rows(1))[0] == 200  # it waits for the new one
    assert ask(f"{url}/v2/health/ready")[0] == 200


def test_overload_is_said(url: str) -> None:
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(infer, url, rows(-4, *range(39)))
        time.sleep(0.3)
        assert infer(url, rows(*range(40)))[0] == 503
        assert infer(url, rows(1))[0] == 200
        assert slow.result()[0] == 200


def test_triton_client_json_and_binary(url: str) -> None:
    import tritonclient.http as triton

    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    with triton.InferenceServerClient(url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("scale")
        assert client.get_model_metadata("scale")["inputs"][0]["shape"] == [-1, 4]
        assert client.get_model_config("scale")["max_batch_size"] == 64
        for binary_in in (True, False):
            for binary_out in (True, False):
                tensor = triton.InferInput("x", [3, 4], "FP32")
                tensor.set_data_from_numpy(values, binary_data=binary_in)
                wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
                answer = client.infer("scale", [tensor], outputs=[wanted], request_id="7")
                np.testing.assert_array_equal(answer.as_numpy("y"), values * 2)
                assert answer.get_response()["id"] == "7"
        with pytest.raises(triton.InferenceServerException, match="expected"):
            tensor = triton.InferInput("x", [3, 3], "FP32")
            tensor.set_data_from_numpy(values[:, :3].copy())
            client.infer("scale", [tensor])


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_however_the_server_ends(
    deploy: Deploy, start_server: StartServer, ending: signal.Signals
) -> None:
    process, url = start_server(deploy("scale"))
    children = psutil.Process(process.pid).children()
    assert len(children) == 1
    # The replica is busy when the end comes; in order, the request is still answered.
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(infer, url, rows(-4))
        time.sleep(0.3)
        process.send_signal(ending)
        assert process.wait(20) == (-signal.SIGKILL if ending == signal.SIGKILL else 0)
        alive = psutil.wait_procs(children, timeout=5)[1]
        assert not alive
        if ending == signal.SIGKILL:
            assert answer.exception() is not None
        else:
            assert answer.result()[0] == 200


def test_answers_do_not_wait_for_delayed_acknowledgements() -> None:
    """asyncio sets TCP_NODELAY on connections of sockets that name their protocol, and on no others."""
    with _bound("127.0.0.1", 0) as sock:
        assert sock.proto == socket.IPPROTO_TCP


def test_what_cannot_be_served_is_said(deploy: Deploy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`pipeline` needs `inputs` and `outputs`"):
        serve_plan(deploy("graph"), oversubscribe=True)
    with pytest.raises(InputError, match=r"cannot listen at 192\.0\.2\.1:80"):
        serve_plan(deploy("scale"), host="192.0.2.1", port=80)
    assert not [child for child in psutil.Process(os.getpid()).children() if "worker" in " ".join(child.cmdline())]
