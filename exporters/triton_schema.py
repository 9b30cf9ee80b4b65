"""The Triton release we write for, and the part of its configuration schema that other releases lack.

tritonclient's own protobuf is as new as the installed client; a server refuses fields it does not know.
The table below is the schema of the release named here (read off the client of the same version).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SERVER_VERSION = "2.51.0"
CONTAINER_RELEASE = "24.10"
CONTAINER_IMAGE = f"nvcr.io/nvidia/tritonserver:{CONTAINER_RELEASE}-py3"

_FIELDS = """
BatchInput kind target_name data_type source_input
BatchOutput target_name kind source_input
ModelConfig name platform backend runtime version_policy max_batch_size input output batch_input batch_output
ModelConfig optimization dynamic_batching sequence_batching ensemble_scheduling instance_group
ModelConfig default_model_filename cc_model_filenames metric_tags parameters model_warmup model_operations
ModelConfig model_transaction_policy model_repository_agents response_cache
ModelDynamicBatching preferred_batch_size max_queue_delay_microseconds preserve_ordering priority_levels
ModelDynamicBatching default_priority_level default_queue_policy priority_queue_policy
ModelEnsembling step
ModelEnsembling.Step model_name model_version input_map output_map model_namespace
ModelInput name data_type format dims reshape is_shape_tensor allow_ragged_batch optional is_non_linear_format_io
ModelInstanceGroup name kind count rate_limiter gpus secondary_devices profile passive host_policy
ModelInstanceGroup.SecondaryDevice kind device_id
ModelOperations op_library_filename
ModelOptimizationPolicy graph priority cuda execution_accelerators input_pinned_memory output_pinned_memory
ModelOptimizationPolicy gather_kernel_buffer_threshold eager_batching
ModelOptimizationPolicy.Cuda graphs busy_wait_events graph_spec output_copy_stream
ModelOptimizationPolicy.Cuda.GraphSpec batch_size input graph_lower_bound
ModelOptimizationPolicy.Cuda.GraphSpec.LowerBound batch_size input
ModelOptimizationPolicy.Cuda.GraphSpec.Shape dim
ModelOptimizationPolicy.ExecutionAccelerators gpu_execution_accelerator cpu_execution_accelerator
ModelOptimizationPolicy.ExecutionAccelerators.Accelerator name parameters
ModelOptimizationPolicy.Graph level
ModelOptimizationPolicy.PinnedMemoryBuffer enable
ModelOutput name data_type dims reshape label_filename is_shape_tensor is_non_linear_format_io
ModelParameter string_value
ModelQueuePolicy timeout_action default_timeout_microseconds allow_timeout_override max_queue_size
ModelRateLimiter resources priority
ModelRateLimiter.Resource name global count
ModelRepositoryAgents agents
ModelRepositoryAgents.Agent name parameters
ModelResponseCache enable
ModelSequenceBatching direct oldest max_sequence_idle_microseconds control_input state iterative_sequence
ModelSequenceBatching.Control kind int32_false_true fp32_false_true bool_false_true data_type
ModelSequenceBatching.ControlInput name control
ModelSequenceBatching.InitialState data_type dims zero_data data_file name
ModelSequenceBatching.State input_name output_name data_type dims initial_state use_same_buffer_for_input_output
ModelSequenceBatching.State use_growable_memory
ModelSequenceBatching.StrategyDirect max_queue_delay_microseconds minimum_slot_utilization
ModelSequenceBatching.StrategyOldest max_candidate_sequences preferred_batch_size max_queue_delay_microseconds
ModelSequenceBatching.StrategyOldest preserve_ordering
ModelTensorReshape shape
ModelTransactionPolicy decoupled
ModelVersionPolicy latest all specific
ModelVersionPolicy.Latest num_versions
ModelVersionPolicy.Specific versions
ModelWarmup name batch_size inputs count
ModelWarmup.Input data_type dims zero_data random_data input_data_file
"""


def _table() -> dict[str, frozenset[str]]:
    known: dict[str, set[str]] = {}
    for line in _FIELDS.split("\n"):
        message, *fields = line.split() or [""]
        known.setdefault(message, set()).update(fields)
    return {message: frozenset(fields) for message, fields in known.items() if message}


KNOWN_FIELDS = _table()
"""Message (without its package) -> the fields the release knows."""


def unknown_fields(message: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of the fields set in a ModelConfig that the release does not know."""
    name = message.DESCRIPTOR.full_name.removeprefix("inference.")
    for field, value in message.ListFields():
        here = (*path, field.name)
        if field.name not in KNOWN_FIELDS.get(name, frozenset()):
            yield here
        elif field.message_type is None:
            continue
        elif field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name["value"]
            if entry.message_type is not None:
                for key in sorted(value):
                    yield from unknown_fields(value[key], (*here, key))
        elif hasattr(value, "ListFields"):
            yield from unknown_fields(value, here)
        else:
            for index, item in enumerate(value):
                yield from unknown_fields(item, (*here, index))
