"""`options`: what a caller asks for. The same in HTTP, the command line and the Python client.

In: a JSON object. Out: a `PruneRequest` (`parse_options`) or an `InspectRequest` (`parse_inspection`). Refused: unknown
keys (naming the nearest known one), values out of range and combinations without a meaning, each with a JSON pointer.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from schemas.amount import Amount
from schemas.criteria import CRITERIA, Criterion, CriterionBase, Obs, with_name
from schemas.device import CustomTarget, Processor, target_named
from schemas.finishing import Distilling, Quantizing
from schemas.parse import parse
from schemas.strict import Strict

JobKind = Literal["prune", "inspect", "sweep", "compare"]


class Scope(Strict):
    """Which layers may be pruned: by shell patterns on the names of layers, nodes and weights, and by operator."""

    include: tuple[str, ...] = Field(default=("*",), min_length=1, description="A layer must match one of these.")
    exclude: tuple[str, ...] = Field(default=(), description="A layer must match none of these.")
    operators: tuple[str, ...] = Field(
        default=(), description="Only layers with these operators, such as Conv or Gemm; empty: with any."
    )
    minimum_kept: int = Field(default=1, ge=1, lt=2**63, description="Every group keeps at least this many units.")


class Preprocess(Strict):
    """How uploaded arrays become the model's inputs: `(x / scale - mean) / std`, after `layout` and `channels`."""

    scale: float | None = Field(default=None, gt=0, description="Divide by this first; 255 for 8-bit images.")
    mean: tuple[float, ...] = Field(default=(), description="Subtract: one number, or one for each channel.")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(), description="Divide: one, or one a channel.")
    layout: Literal["NCHW", "NHWC"] | None = Field(
        default=None, description="The layout of the uploaded arrays; transposed where the model's input differs."
    )
    channels: Literal["RGB", "BGR"] = Field(
        default="RGB", description="The order the model wants; uploads are RGB, and BGR reverses the channel axis."
    )
    inputs: tuple[str, ...] = Field(
        default=(), description="The inputs it applies to; needed only where the model has several."
    )


class Evaluation(Strict):
    """How accuracy is measured. What is left out is inferred from the last operator and the labels' type."""

    task: Literal["auto", "classification", "binary", "regression", "fidelity"] = Field(
        default="auto", description="`auto`: from the labels' type and the output's shape; without labels, fidelity."
    )
    output: str | None = Field(default=None, description="The output that is judged; by default the first.")
    class_axis: int | None = Field(default=None, description="The axis of the classes; by default 1 (or the last).")
    from_: Literal["logits", "probabilities"] | None = Field(
        default=None, alias="from", description="What a binary output is; by default from the last operator."
    )
    threshold: float = Field(default=0.5, gt=0, lt=1, description="For binary tasks: positive above this probability.")


class Constraints(Strict):
    """What the result must satisfy. Without an amount they say how much goes; they always give a verdict."""

    max_accuracy_drop: float | None = Field(
        default=None, ge=0, lt=1, description="As a share: 0.01 is one point of 100."
    )
    min_accuracy: float | None = Field(default=None, description="The score after pruning is at least this.")
    max_file_bytes: int | None = Field(default=None, gt=0, lt=2**63, description="The size of the ONNX file.")
    max_parameters: int | None = Field(default=None, gt=0, lt=2**63, description="Zeros count.")
    max_macs: int | None = Field(default=None, gt=0, lt=2**63, description="Multiply-accumulates for one sample.")
    max_peak_ram_bytes: int | None = Field(default=None, gt=0, lt=2**63, description="What activations take at once.")
    max_latency_ms: float | None = Field(
        default=None,
        gt=0,
        description="With a `target` the estimate for it, from its rate of MACs; without one measured in onnxruntime, "
        "one thread, where the job runs.",
    )
    fits_target: bool = Field(
        default=False, description="It fits the memories of `target`, which runs all its operators."
    )


class PruneRequest(Strict):
    """Everything a caller may choose about one pruning job."""

    kind: ClassVar[JobKind] = "prune"

    criterion: Criterion = Field(default_factory=Obs, description="What says which units go; by default `obs`.")
    amount: Amount = Field(
        default_factory=lambda: Amount(keep_macs=0.5),
        description="By default what constraints or a target ask for or allow; without these the criterion's own "
        "threshold where it has one, for `obs` half of the multiply-accumulates.",
    )
    round_to: int = Field(
        default=1, ge=1, le=256, description="What stays of a group is a multiple of this, or all of it."
    )
    share_out: Literal["error", "uniform"] = Field(
        default="error",
        description="How an amount is shared out among the groups: `error` takes units where they cost least for what "
        "is saved, for criteria whose scores compare across groups; `uniform` takes the same share of each.",
    )
    compensation: Literal["none", "merge", "merge_incoming", "project", "reconstruct"] = Field(
        default="reconstruct",
        description="What happens to the outgoing weights of a removed unit: dropped; added to its pair or to the "
        "closest kept unit; added there times the factor that fits best; or all that reads it, or reads what has "
        "changed, is fitted anew, front to back, to what the uploaded model computes. `merge_incoming` adds the "
        "unit's incoming weights to those of its pair instead, and drops the outgoing ones.",
    )
    effort: Literal["usual", "thorough"] = Field(
        default="usual",
        description="How long `reconstruct` trains the units that stay: `thorough` takes two and a half times as many "
        "steps at each layer, which is most worth while where much goes.",
    )
    scope: Scope = Field(default_factory=Scope, description="Which layers may lose units; by default all.")
    lossy: bool = Field(
        default=False,
        description="Prune through what takes statistics over units (LayerNorm, RMSNorm, means): they become those of "
        "the units that stay, which is not what masking the removed ones gives.",
    )
    external_data: bool = Field(
        default=False,
        description="Write the weights into a file of their own, which the model names. Above 2 GiB it is always so.",
    )
    preprocess: Preprocess = Field(default_factory=Preprocess, description="From the data as sent to the inputs.")
    sample_axes: dict[str, Annotated[int, Field(ge=0)] | None] = Field(
        default_factory=dict,
        description="The axis that counts samples, by input or output; null for an input that is the same for all "
        "samples. What is left out is found from the model.",
    )
    evaluation: Evaluation = Field(default_factory=Evaluation, description="How accuracy is measured.")
    constraints: Constraints = Field(default_factory=Constraints, description="What the result must satisfy.")
    distill: Distilling = Field(
        default=None,
        description="Train what is left towards the uploaded model, without labels; by default not. `true` is `{}`.",
    )
    quantize: Quantizing = Field(
        default=None,
        description='Round the result to eight bits; by default not. The float model stays an artifact. `"int8"` and '
        "`true` are `{}`.",
    )
    sparse_output: bool = Field(
        default=False,
        description="For criteria of single weights: a second file, sparse.onnx, that stores the numbers that are not "
        "zero and where they stand, where that is smaller. onnxruntime computes with it densely all the same.",
    )
    target: str | CustomTarget | None = Field(
        default=None,
        union_mode="left_to_right",
        description="The device that the result is for: a name of GET /targets, or an object of its memories.",
    )
    verify_on: Processor | None = Field(
        default=None,
        description="Compile the result for this processor, measure it, run it in an emulator and compare. The C "
        "source is model.c among the job's files.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the job runs.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seeds the split of the data and every random choice.")

    @model_validator(mode="before")
    @classmethod
    def _defaults_follow_the_criterion(cls, raw: Any) -> Any:
        """Some criteria have a threshold of their own, some need no data (reconstructing does), some compare."""
        if isinstance(raw, Mapping) and isinstance(raw.get("criterion"), Mapping):
            raw = {**raw, "criterion": with_name(raw["criterion"])}
        criterion = _criterion(raw)
        if criterion is None:
            return raw
        usual = {
            "amount": {"search": True} if _asks_for_a_fit(raw, criterion) else criterion.usual_amount(),
            "compensation": criterion.usual_compensation(),
            "share_out": "error" if criterion.comparable() else "uniform",
        }
        return {**usual, **raw}

    @field_validator("target", mode="before")
    @classmethod
    def _target_is_known(cls, raw: Any) -> Any:
        """Checked by its kind here, so that a complaint speaks of one kind only."""
        if isinstance(raw, str):
            return target_named(raw).name
        if raw is None or isinstance(raw, CustomTarget):
            return raw
        if not isinstance(raw, Mapping):
            raise ValueError("give the name of a device, or an object with flash_bytes and ram_bytes")
        return CustomTarget.model_validate(raw)

    @model_validator(mode="after")
    def _combinations(self) -> "PruneRequest":
        weights = self.criterion.prunes_weights()
        kind = self.amount.kind
        if kind == "search" and self.target is None and self.constraints == Constraints():
            raise ValueError("a search needs to know what for: give constraints, or a target")
        if weights and kind not in ("remove_weights", "threshold"):
            raise ValueError(
                "the criterion ranks single weights, not units: give amount.remove_weights instead of "
                f"{self.amount.named()}"
            )
        if not weights and kind == "remove_weights":
            raise ValueError(
                'amount "remove_weights" needs a criterion of weights: {"name": "magnitude", "of": "weights"}'
            )
        own = self.criterion.own_share()
        if own is not None and (self.criterion.has_threshold() or kind == "remove_weights"):
            raise ValueError(f"the pattern itself says that {own:g} of the weights go; leave amount and threshold out")
        if kind == "threshold" and own is None and not self.criterion.has_threshold():
            raise ValueError(
                f"criterion {self.criterion.name!r} has no threshold set; set criterion.threshold, or give an amount "
                'such as {"remove_units": 0.5}'
            )
        if weights and self.compensation != "none":
            raise ValueError('single weights are not merged; use compensation: "none"')
        if self.effort == "thorough" and self.compensation != "reconstruct":
            raise ValueError('effort is that of compensation "reconstruct"; use that, or leave effort out')
        if weights and (self.round_to > 1 or self.scope.minimum_kept > 1):
            raise ValueError("round_to and scope.minimum_kept count units; of single weights, leave them out")
        if self.sparse_output and not weights:
            raise ValueError("sparse_output needs a criterion of weights: removed units leave no zeros")
        if self.sparse_output and self.quantize is not None:
            raise ValueError("sparse_output stores floating-point weights; leave quantize out")
        if self.constraints.fits_target and self.target is None:
            raise ValueError('constraints.fits_target needs a target, such as "stm32f4"; see GET /targets')
        if self.constraints.max_latency_ms is not None and _states_no_speed(self.target):
            raise ValueError(
                "constraints.max_latency_ms is about the target, which states no speed; give its clock_hz and "
                "macs_per_cycle, or leave one of the two out"
            )
        if self.share_out == "error" and not self.criterion.comparable():
            raise ValueError(
                f"the scores of criterion {self.criterion.name!r} do not compare across groups; use share_out: "
                '"uniform", or criterion "obs"'
            )
        return self

    def needs_data(self) -> bool:
        """Whether the job cannot run without calibration data."""
        finishing = self.distill is not None or self.quantize is not None
        rebuilding = self.compensation == "reconstruct"
        return finishing or rebuilding or self.criterion.needs_data() or self.needs_grams()

    def needs_grams(self) -> bool:
        """Whether the criterion or the compensation looks at how units go together over the data."""
        if self.compensation in ("merge", "merge_incoming"):
            return self.criterion.needs_grams() or not self.criterion.names_partners()
        return self.criterion.needs_grams() or self.compensation == "project"

    def needs_history(self) -> bool:
        """Whether the job cannot run without the history of the training."""
        return self.criterion.needs_history()

    def why_history(self) -> str:
        """What it is that cannot do without."""
        return f"criterion {self.criterion.name!r} looks at how training changed the weights"

    def why_data(self) -> str:
        """What it is that cannot do without."""
        finishing = [name for name in ("distill", "quantize") if getattr(self, name) is not None]
        if finishing:
            return f"{' and '.join(finishing)} work{'s' if len(finishing) == 1 else ''} with calibration samples"
        return f"criterion {self.criterion.name!r} with compensation {self.compensation!r} looks at data"


def _states_no_speed(target: str | CustomTarget | None) -> bool:
    return isinstance(target, CustomTarget) and (target.clock_hz is None or target.macs_per_cycle is None)


def _asks_for_a_fit(raw: Mapping[str, Any], criterion: CriterionBase) -> bool:
    """Whether something is asked of the result, and the criterion leaves open how much goes."""
    given = raw.get("constraints")
    asked = raw.get("target") is not None or (
        isinstance(given, Mapping) and any(one is not None and one is not False for one in given.values())
    )
    return asked and not criterion.has_threshold() and not criterion.prunes_weights()


def _criterion(raw: Any) -> CriterionBase | None:
    """The criterion that a request names, if that much of it is valid."""
    given = raw.get("criterion", {"name": "obs"}) if isinstance(raw, Mapping) else None
    if isinstance(given, CriterionBase):
        return given
    known = CRITERIA.get(str(given.get("name"))) if isinstance(given, Mapping) else None
    try:
        return None if known is None else known.model_validate(given)
    except ValidationError:
        return None


def parse_options(raw: str | bytes | Mapping[str, Any]) -> PruneRequest:
    """Options from JSON text or a mapping. Raises `options_not_json` or `options_invalid` with pointers."""
    return parse(raw, PruneRequest)
