"""A real tritonserver for tests: the one the nvidia-pytriton wheel carries, in an environment of its own.

It has the python backend alone. A backend named `onnxruntime`, written in Python (triton_backend/), makes it
load exported repositories unchanged; parser, scheduler, batcher and ensembles are the server's own.
The environment is made once, in `build/triton-server` or where INFERPLAN_TRITON_SERVER says.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WHEEL = "nvidia-pytriton==0.7.0"
VERSION = "2.51.0"
BACKENDS = Path(__file__).parent / "triton_backend"
DEFAULT_HOME = Path(__file__).parents[2] / "build" / "triton-server"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
# With numpy 2 the python backend of this release answers with empty data.
PACKAGES = ["numpy<2", "setuptools<81"]


class Unavailable(Exception):
    """The server cannot be had on this machine; says why."""


class StartFailed(Exception):
    """The server refused a repository, or did not start; carries its log."""

    def __init__(self, log: str) -> None:
        super().__init__(log[-6000:])
        self.log = log


@dataclass(frozen=True)
class Installation:
    """An installed server: its binary, its backends, and the environment to start it in."""

    binary: Path
    backends: Path
    environment: dict[str, str]


@dataclass(frozen=True)
class RunningServer:
    """Where a started server listens, and its log."""

    http: str
    grpc: str
    log: Path


def install() -> Installation:
    """The installed server, made first if there is none. Raises Unavailable where it cannot be installed."""
    home = Path(os.environ.get("INFERPLAN_TRITON_SERVER", DEFAULT_HOME)) / f"python{PYTHON}"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = home / "ready"
        wanted = f"{WHEEL} {PACKAGES} {_onnxruntime()}"
        if not ready.exists() or ready.read_text() != wanted:
            ready.unlink(missing_ok=True)
            _make_environment(home / "venv")
            ready.write_text(wanted)
        return _lay_out(home)


def _onnxruntime() -> str:
    for package in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"onnxruntime=={importlib.metadata.version(package)}"
    return "onnxruntime"


def _make_environment(venv: Path) -> None:
    shutil.rmtree(venv, ignore_errors=True)
    commands = [
        [sys.executable, "-m", "venv", str(venv)],
        [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", WHEEL],
        [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", *PACKAGES, _onnxruntime()],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise Unavailable(f"{' '.join(command[1:])} failed: {lines[-1] if lines else done.returncode}")


def _lay_out(home: Path) -> Installation:
    """Copy the backends together (the server refuses links), and work out the environment."""
    packages = next((home / "venv/lib").glob("python*/site-packages"))
    server = packages / "pytriton/tritonserver"
    stub = server / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if not stub.exists():
        raise Unavailable(f"{WHEEL} has no python backend for Python {PYTHON}")
    libraries = Path(sysconfig.get_config_var("LIBDIR") or "")
    if not (libraries / f"libpython{PYTHON}.so.1.0").exists():
        raise Unavailable(f"Python {PYTHON} has no shared library (libpython{PYTHON}.so.1.0), which the server needs")
    backends = home / "backends"
    for source, target in [
        (server / "backends/python/libtriton_python.so", backends / "python"),
        (server / "backends/python/triton_python_backend_utils.py", backends / "python"),
        (stub, backends / "python"),
        (BACKENDS / "onnxruntime/model.py", backends / "onnxruntime"),
    ]:
        target.mkdir(parents=True, exist_ok=True)
        _copy_changed(source, target / source.name)
    environment = {key: os.environ[key] for key in ("HOME", "TMPDIR") if key in os.environ}
    environment |= {
        "PATH": f"{home / 'venv/bin'}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": f"{libraries}:{packages / 'nvidia_pytriton.libs'}",
        "OMP_NUM_THREADS": "1",
    }
    return Installation(server / "bin/tritonserver", backends, environment)


def _copy_changed(source: Path, target: Path) -> None:
    if target.exists() and target.read_bytes() == source.read_bytes():
        return
    fresh = target.with_name(target.name + f".{os.getpid()}")
    shutil.copy2(source, fresh)
    fresh.replace(target)


@contextlib.contextmanager
def serving(
    installation: Installation, repository: Path, log: Path, *arguments: str, timeout_s: float = 60
) -> Iterator[RunningServer]:
    """Serve a repository until the block is left. Raises StartFailed, with the log, where it does not load."""
    ports = _free_ports(3)
    shared = f"inferplan_test_{os.getpid()}_{ports[0]}_"
    command = [
        str(installation.binary),
        f"--model-repository={repository}",
        f"--backend-directory={installation.backends}",
        *[f"--{front}-address=127.0.0.1" for front in ("http", "grpc", "metrics")],
        *[f"--{front}-port={port}" for front, port in zip(("http", "grpc", "metrics"), ports, strict=True)],
        *[f"--backend-config={name},shm-region-prefix-name={shared}" for name in ("python", "onnxruntime")],
        "--exit-on-error=true",
        "--disable-auto-complete-config",
        *arguments,
    ]
    with log.open("w") as output:
        # A group of its own: the processes of the python backend can outlive the server.
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=installation.environment,
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            _await_ready(process, ports[0], log, timeout_s)
            yield RunningServer(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", log)
        finally:
            _stop(process)
            for left in Path("/dev/shm").glob(f"{shared}*"):
                left.unlink(missing_ok=True)


def _await_ready(process: subprocess.Popen[bytes], port: int, log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StartFailed(log.read_text(errors="replace"))
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.05)
    raise StartFailed(f"not ready after {timeout_s} s\n" + log.read_text(errors="replace"))


def _stop(process: subprocess.Popen[bytes]) -> None:
    # At once and with its stubs: asked to end, it takes seconds, and there is nothing that it would have to put away.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def on_cpu(repository: Path, target: Path) -> Path:
    """A copy of a repository whose models run on the CPU: the server of the wheel has no GPU support."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    shutil.copytree(repository, target)
    for path in target.glob("*/**/*.pbtxt"):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        for group in config.instance_group:
            if group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU:
                group.kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
                del group.gpus[:]
        config.optimization.ClearField("execution_accelerators")
        if not config.optimization.ListFields():
            config.ClearField("optimization")
        path.write_text(text_format.MessageToString(config))
    return target


def configuration(server: RunningServer, model: str) -> dict[str, object]:
    """A model's configuration as the server understood it."""
    with urllib.request.urlopen(f"http://{server.http}/v2/models/{model}/config", timeout=5) as answer:
        return dict(json.load(answer))
