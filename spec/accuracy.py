"""What the workload says of end-to-end accuracy: its metric, and how it follows from what is chosen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from inferplan.spec.response import StageResponse
from inferplan.spec.stage import Metric
from inferplan.spec.types import ChoiceName, CodeReference, Name, Record


class Accuracy(Record):
    """How end-to-end accuracy follows from the stages' choices.

    product / mean / minimum combine the stages' measured metrics; `table` uses end-to-end measurements of
    whole combinations of variants; `response` a curve per stage; `function` code of the user's; `fitted` predicts
    the combinations that were not measured from those that were.
    """

    metric: Metric
    composition: Literal["product", "mean", "minimum", "table", "response", "function", "fitted"] = "product"
    function: CodeReference | None = Field(
        None, description="composition function: module:function of a dict, stage -> its metric; returns the accuracy."
    )
    responses: dict[Name, StageResponse] = Field(
        default={},
        description="composition response: curves per stage. A last stage without any gets them from measured"
        " combinations; another stage multiplies its own metric in.",
    )
    combinations: list[dict[Name, ChoiceName]] = Field(
        default=[],
        description="Combinations (stage: variant, or variant@modality+modality) to evaluate end to end; empty means"
        " all of them (composition fitted: as many as show every choice once).",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Accuracy:
        if (self.function is not None) != (self.composition == "function"):
            raise ValueError("'function' belongs to composition: function, and composition: function needs 'function'")
        if self.responses and self.composition != "response":
            raise ValueError("'responses' belongs to composition: response")
        return self
