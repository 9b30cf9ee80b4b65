"""A Triton backend named `onnxruntime`, for a server that has only the python backend.

It loads `<repository>/<version>/model.onnx` and refuses a configuration that does not agree with the session,
as Triton's own ONNX Runtime backend does: names, data types, dimensions, the free batch dimension. Only what
this project exports is honoured; anything else is refused, so that no check passes by being ignored.
"""

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


def session_shape(tensor):
    return [dim if isinstance(dim, int) and dim >= 0 else -1 for dim in tensor.shape]


def disagreement(config, session):
    """What the configuration says that the session does not; empty where they agree."""
    batched = config["max_batch_size"] > 0
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    found = []
    if {entry["name"] for entry in config["input"]} != set(inputs):
        found.append(f"inputs {[e['name'] for e in config['input']]} are not the model's {sorted(inputs)}")
    for known, entries, exact in ((inputs, config["input"], False), (outputs, config["output"], True)):
        for entry in entries:
            name = entry["name"]
            if name not in known:
                found.append(f"{name}: not in the model")
                continue
            tensor = known[name]
            if TYPES.get(tensor.type) != entry["data_type"]:
                found.append(f"{name}: {entry['data_type']} but the model has {tensor.type}")
            real = session_shape(tensor)
            # A tensor without dimensions but the batch: clients see one of size 1.
            dims = [int(dim) for dim in entry.get("reshape", {"shape": entry["dims"]}).get("shape", [])]
            if not real:
                continue
            if batched and real[0] != -1:
                found.append(f"{name}: the first dimension of {real} is not free")
            full = [-1, *dims] if batched else dims
            fits = len(full) == len(real) and all(
                have == want or (want == -1 and not exact) for have, want in zip(full, real, strict=True)
            )
            if not fits:
                found.append(f"{name}: dims {full} but the model has {real}")
    return found


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        filename = config.get("default_model_filename") or "model.onnx"
        path = os.path.join(args["model_repository"], args["model_version"], filename)
        options = onnxruntime.SessionOptions()
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        options.intra_op_num_threads = int(parameters["intra_op_thread_count"])
        options.inter_op_num_threads = int(parameters["inter_op_thread_count"])
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        wrong = disagreement(config, self.session)
        if wrong:
            raise pb_utils.TritonModelException("; ".join(wrong))
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]
        self.batched = config["max_batch_size"] > 0

    def execute(self, requests):
        if not self.batched:
            return [self.answer([request])[0] for request in requests]
        return self.answer(requests)

    def answer(self, requests):
        feeds = {}
        for name in self.inputs:
            arrays = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            feeds[name] = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
        counts = [len(pb_utils.get_input_tensor_by_name(r, self.inputs[0]).as_numpy()) for r in requests]
        results = self.session.run(self.outputs, feeds)
        ends = np.cumsum(counts)
        responses = []
        for end, count in zip(ends, counts, strict=True):
            rows = slice(end - count, end) if len(requests) > 1 else slice(None)
            tensors = [
                pb_utils.Tensor(name, np.ascontiguousarray(array[rows]))
                for name, array in zip(self.outputs, results, strict=True)
            ]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
