"""A backend as a package of its own: what the entry point `evaluator` loads. Nothing heavy is imported here."""

from aligndbg.backends.registry import Entry

ENTRY = Entry(
    "evaluator",
    "aligndbg_evaluator.backend:EvaluatorBackend",
    (".onnx.ref",),
    needs=("onnx",),
    summary="ONNX models on onnx's reference evaluator",
)
