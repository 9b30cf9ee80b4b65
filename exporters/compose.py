"""Write a plan as a compose file: a Triton server per machine of the plan, each with its own model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from inferplan.exporters.compose_check import check_compose
from inferplan.exporters.deployment import Deployment, Machine, build_deployment
from inferplan.exporters.publishing import published, written_files
from inferplan.exporters.triton import models_by_endpoint, provider_notes, write_repository
from inferplan.exporters.triton_lint import lint_repository
from inferplan.exporters.triton_schema import CONTAINER_IMAGE, CONTAINER_RELEASE, SERVER_VERSION
from inferplan.spec.errors import InputError
from inferplan.spec.plan import Plan
from inferplan.spec.workload import Workload

_HTTP, _GRPC, _METRICS = 8000, 8001, 8002
# Host ports of a machine start here, ten apart.
_FIRST_HOST_PORT = 8000
_PORTS_PER_MACHINE = 10
# Shared memory between the server and its python backend: requests and answers under way.
_SHARED_MEMORY_BYTES = 1 << 30
_NETWORK = "inferplan"


def export_compose(plan: Plan, workload: Workload, out_dir: Path | str, *, force: bool = False) -> list[Path]:
    """Write `compose.yaml` and a repository per machine; returns the files written, relative to `out_dir`.

    Raises as `export_triton`, and CheckFailedError where the compose file fails its schema or our checks.
    """
    deployment = build_deployment(plan, workload)
    machines = [machine for machine in deployment.machines if deployment.replicas(machine)]
    if not machines:
        raise InputError("the plan runs no model: there is nothing for a server to load")
    target = Path(out_dir)
    about = {
        "format": "1",
        "target": "compose",
        "server": f"{SERVER_VERSION} ({CONTAINER_RELEASE})",
        "workload": deployment.name,
        "plan_sha256": deployment.plan_sha256,
    }
    with published(target, about, force=force, sources=deployment.root) as folder:
        notes: dict[str, None] = {}
        endpoints = {machine.name: f"{machine.name}:{_HTTP}" for machine in machines}
        for machine in machines:
            repository = folder / "machines" / machine.name
            repository.mkdir(parents=True)
            places = models_by_endpoint(deployment, machine, endpoints)
            notes.update(dict.fromkeys(write_repository(deployment, repository, machine, places)))
            lint_repository(repository).require_clean()
        (folder / "compose.yaml").write_text(_render(_document(deployment, machines)), "utf-8")
        (folder / "README.md").write_text(_readme(deployment, machines, list(notes)), "utf-8")
        check_compose(folder / "compose.yaml")
    return written_files(target)


def _document(deployment: Deployment, machines: list[Machine]) -> dict[str, Any]:
    services = {}
    first_cpu = 0
    for index, machine in enumerate(machines):
        services[machine.name] = _service(machine, index, first_cpu)
        first_cpu += machine.spec.cores
    return {
        "name": deployment.name.lower(),
        "services": services,
        "networks": {_NETWORK: {"driver": "bridge"}},
    }


def _service(machine: Machine, index: int, first_cpu: int) -> dict[str, Any]:
    spec = machine.spec
    variable = f"CPUSET_{machine.name.upper().replace('-', '_')}"
    service: dict[str, Any] = {
        "image": f"${{TRITON_IMAGE:-{CONTAINER_IMAGE}}}",
        "command": [
            "tritonserver",
            "--model-repository=/models",
            "--disable-auto-complete-config",
            "--exit-on-error=true",
        ],
        "cpuset": f"${{{variable}:-{first_cpu}-{first_cpu + spec.cores - 1}}}",
        "cpus": spec.cores,
        "shm_size": _SHARED_MEMORY_BYTES,
        "volumes": [{"type": "bind", "source": f"./machines/{machine.name}", "target": "/models", "read_only": True}],
        "ports": [
            {
                "target": port,
                "published": str(_FIRST_HOST_PORT + _PORTS_PER_MACHINE * index + port - _HTTP),
                "host_ip": "${BIND_ADDRESS:-127.0.0.1}",
                "protocol": "tcp",
            }
            for port in (_HTTP, _GRPC, _METRICS)
        ],
        "healthcheck": {
            "test": ["CMD", "curl", "--fail", "--silent", f"http://127.0.0.1:{_HTTP}/v2/health/ready"],
            "interval": "5s",
            "timeout": "2s",
            "retries": 3,
            "start_period": "120s",
        },
        "networks": [_NETWORK],
        "restart": "unless-stopped",
        "stop_grace_period": "35s",
        "security_opt": ["no-new-privileges:true"],
    }
    if spec.memory_bytes is not None:
        service["mem_limit"] = spec.memory_bytes
    if spec.kind == "gpu":
        gpu = {"driver": "nvidia", "count": spec.gpu_count, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [gpu]}}}
    return service


def _render(document: dict[str, Any]) -> str:
    head = (
        f"# Written by inferplan for Triton {SERVER_VERSION} ({CONTAINER_RELEASE}).\n"
        "# One service per machine of the plan; BIND_ADDRESS is where its ports are published.\n"
        "# TRITON_IMAGE and CPUSET_<MACHINE> replace the image and the CPUs of a machine.\n"
    )
    return head + yaml.safe_dump(document, sort_keys=False, width=110)


def _readme(deployment: Deployment, machines: list[Machine], notes: list[str]) -> str:
    lines = [
        f"# {deployment.name}: a Triton server per machine",
        "",
        f"Written by inferplan for Triton {SERVER_VERSION} (container release {CONTAINER_RELEASE}).",
        "All machines on this host, each on CPUs of its own:",
        "",
        "    docker compose up --wait",
        "",
        "One machine on a host of its own, on its first CPUs (the others must then reach it by its service name):",
        "",
        *(
            f"    CPUSET_{machine.name.upper().replace('-', '_')}=0-{machine.spec.cores - 1}"
            f" docker compose up --wait {machine.name}"
            for machine in machines[:1]
        ),
        "",
        "| machine | device | cores | host ports (HTTP, gRPC, metrics) | replicas |",
        "|---|---|---|---|---|",
    ]
    for index, machine in enumerate(machines):
        first = _FIRST_HOST_PORT + _PORTS_PER_MACHINE * index
        replicas = ", ".join(f"{count} x `{name}`" for name, count in deployment.replicas(machine).items())
        ports = f"{first}, {first + 1}, {first + 2}"
        lines.append(f"| `{machine.name}` | {machine.device} | {machine.spec.cores} | {ports} | {replicas} |")
    lines += ["", *(f"Call `{route.name}` for class {', '.join(route.classes)}." for route in deployment.routes)]
    if len(machines) > 1:
        lines += [
            "Every machine serves the pipeline, and calls models on the others over HTTP in proportion to their",
            "replicas; spread requests over the machines as you like.",
        ]
    notes = [*deployment.notes, *notes, *provider_notes(deployment)]
    lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"
