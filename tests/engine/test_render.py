"""Reports for people: complete, self-contained, and safe whatever the model calls its layers."""

import re
from html.parser import HTMLParser

import pytest

from schemas.device import Compiled, CompiledFigures, DeviceFit, Devices, Fit, OperatorSupport, Speed, TargetFit
from schemas.errors import EspalierError
from schemas.job import Verdict
from schemas.report import (
    BinaryScore,
    ClassAccuracy,
    ClassificationScore,
    Coverage,
    DataUse,
    Exactness,
    FidelityScore,
    FinishingStep,
    GroupChange,
    LayerChange,
    Pair,
    Provenance,
    Refit,
    Refusal,
    RegressionScore,
    Report,
    Score,
    Side,
    StageTiming,
    Unfitted,
)
from schemas.request import PruneRequest, parse_options
from worker.engine.render import numbers, render_html, render_markdown
from worker.engine.render.measures import measures
from worker.engine.render.rows import PAIRS_SHOWN, REFUSALS_SHOWN
from worker.engine.render.view import GROUPS_SHOWN, LAYERS_SHOWN

EVIL = "<script>alert(1)</script>|`x` @team [a](http://evil) ![](http://evil/p.png) \"'\n# h & **b** #12"


def side(scale: float = 1.0, accuracy: Score | None = None) -> Side:
    return Side(
        parameters=int(2_600_000 * scale),
        nonzero_parameters=int(2_600_000 * scale),
        macs=int(48_000_000 * scale),
        file_bytes=int(10_400_000 * scale),
        gzip_bytes=int(9_600_000 * scale),
        flash_bytes=int(10_400_000 * scale),
        peak_ram_bytes=46_080,
        latency_ms=1.25 * scale,
        accuracy=accuracy,
    )


def classification(wrong: int, classes: int = 4) -> ClassificationScore:
    """Ten samples of each class, `wrong` of class 0 called class 1."""
    confusion = [[10 if row == column else 0 for column in range(classes)] for row in range(classes)]
    confusion[0][0], confusion[0][1] = 10 - wrong, wrong
    return ClassificationScore(
        samples=10 * classes,
        score=1 - wrong / (10 * classes),
        top5=None,
        per_class=tuple(
            ClassAccuracy(label=label, samples=10, accuracy=confusion[label][label] / 10) for label in range(classes)
        ),
        confusion=tuple(map(tuple, confusion)),
        agreement=0.975,
    )


def fits(nodes: tuple[OperatorSupport, ...], *, holds: bool = False) -> Devices:
    """Two devices; the one that was asked for is too small, before and after or only before."""
    speed = (Speed(arithmetic="fp32", cycles=240_000_000, milliseconds=1333.3),)
    small = Fit(fits=False, why=("9,875,712 bytes too few",), speed=speed)
    large = Fit(fits=True, why=(), speed=speed)
    after = large if holds else small
    target = TargetFit(
        device="stm32f4", before=small, after=after, flash_bytes=524_288, ram_bytes=131_072, operators=nodes
    )
    pairs = (("stm32f4", small, after), ("raspberry-pi-5", large, large))
    return Devices(
        target=target,
        profiles=tuple(DeviceFit(device=name, before=before, after=then) for name, before, then in pairs),
    )


def report(
    name: str = "features/conv_1",
    *,
    many: int = 3,
    scores: tuple[Score | None, Score | None] | None = None,
    options: PruneRequest | None = None,
    broken: tuple[str, ...] = (),
    passed: bool = True,
) -> Report:
    before, after = scores or (classification(1), classification(3))
    layer = LayerChange(
        name=name,
        op_type="Conv",
        units_before=64,
        units_after=36,
        parameters_before=20_544,
        parameters_after=10_404,
        nonzero_after=10_404,
        macs_before=144_000,
        macs_after=81_000,
    )
    pairs = tuple(Pair(removed=2 * i + 1, partner=2 * i, angle_deg=7.25, action="merged") for i in range(many))
    group = GroupChange(
        name=name,
        layers=(name,),
        consumers=("fc2",),
        units_before=64,
        units_after=36,
        removed=(*(pair.removed for pair in pairs), 1001, 1002, 1003),
        dead=(1001, 1002, 1003),
        pairs=pairs,
    )
    refusal = Refusal(where=name, reason="operator_unknown", message=f"{name} is not known", parameters=1234)
    refit = Refit(
        layer=name, op_type="Conv", inputs_before=577, inputs_after=325, error_before=0.5, error_after=0.125, ridge=0.01
    )
    nodes = (
        OperatorSupport(operator=name, nodes=2, supported=False, reason=f"{name} is unknown there"),
        OperatorSupport(operator="Conv", nodes=2, supported=True, reason=""),
    )
    return Report(
        devices=fits(nodes),
        options=options or parse_options({"criterion": {"name": "distinctiveness", "angle_deg": 20}}),
        verdict=Verdict(met=not broken, broken=broken),
        before=side(1, before),
        after=side(0.59, after),
        exactness=Exactness(
            max_relative_difference=1.3e-7,
            tolerance=1e-4,
            passed=passed,
            mask_has_effect=True,
            samples=256,
            outputs=(name,),
        ),
        layers=(layer,) * many,
        groups=(group,) * many,
        refusals=(refusal,) * many,
        coverage=Coverage(parameters=2_600_000, prunable_parameters=2_500_000, groups=many, units=64 * many),
        data=DataUse(
            calibration_samples=2000,
            fit_samples=1600,
            held_back_samples=400,
            evaluation_samples=40,
            duplicates_dropped=0,
            shared_dropped=0,
            labels=True,
            how="2,000 distinct calibration samples, split by the seed.",
        ),
        warnings=(f"something about {name}",),
        timings=(StageTiming(stage="load", seconds=0.1), StageTiming(stage="prove", seconds=0.3)),
        refits=(refit,),
        unfitted=(Unfitted(layer=name, op_type="Gemm", reason=f"{name} is read elsewhere"),),
        provenance=Provenance(
            model_sha256="a" * 64,
            external_sha256={name: "e" * 64},
            calibration_sha256="c" * 64,
            evaluation_sha256=None,
            artifact_sha256="b" * 64,
            seed=7,
            device="cpu",
            threads=2,
            versions={"espalier": "0.1.0"},
        ),
    )


class Page(HTMLParser):
    """Tags, attributes and text of a page, and whether every tag is closed."""

    VOID = ("meta", "rect", "br", "link", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.words += " "
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        if "style" not in self.open:
            self.words += data

    def __contains__(self, words: str) -> bool:
        return words in " ".join(self.words.split())


def test_the_page_is_whole_and_needs_nothing_else():
    text = render_html(report())
    page = Page(text)
    assert page.open == []
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "base", "form"} == set()
    for _, attributes in page.tags:
        assert not {"src", "href", "srcset", "action"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    assert re.findall(r"url\(|@import|https?:", text) == []


def test_the_page_says_what_happened():
    page = Page(render_html(report()))
    for words in (
        "41.0 % fewer parameters, accuracy down 5.00 points",
        "Distinctiveness at 20° / 165°, centre auto, by threshold, compensation reconstruct",
        "no constraints given",
        "Parameters 2.60 M 1.53 M −41.0 % 1.69×",
        "Accuracy 97.50 % 92.50 % −5.00 points",
        "Same prediction as uploaded – 97.50 %",
        "a relative difference of at most 1.3e-7 (tolerance 1e-4)",
        "on 40 judged answers that pruning never saw",
        "features/conv_1 Conv 64 → 36 −43.8 % 20.5 k → 10.4 k 144 k → 81.0 k",
        "64 → 36 units 3 dead, 3 merged",
        "features/conv_1 Conv 577 → 325 50.00 % 12.50 %",
        "features/conv_1 Gemm features/conv_1 is read elsewhere",
        "1, 3, 5, 1001–1003",
        "1 0 7.2° merged",
        "0 10 90.0 % 70.0 % −20.0",
        "operator_unknown 3 times 3,702 parameters in these layers",
        "2,000 distinct calibration samples, split by the seed.",
        "prove 300 ms",
        '"angle_deg": 20.0',
    ):
        assert words in page, words
    assert any(attributes.get("title") == "2,600,000" for _, attributes in page.tags)


def test_hostile_names_are_only_text():
    page = Page(render_html(report(EVIL)))
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>" in page


def test_hostile_names_do_not_escape_from_markdown():
    text = render_markdown(report(EVIL, broken=(f"{EVIL} is broken",)))
    assert "<script" not in text.replace("`<script", "")
    outside = re.sub(r"`[^`\n]*`", "", text)
    assert not re.search(r"(?<!\\)\[a\]", outside)
    assert "@team" not in outside
    assert "://" not in outside
    assert not re.search(r"(?<!&)#12", outside)
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| `")}
    assert widths == {4, 5, 6}


def test_the_escape_is_needed():
    """The oracle above sees a name that was not escaped."""
    text = render_markdown(report()).replace("features/conv\\_1", EVIL).replace("features/conv_1", EVIL)
    assert "@team" in re.sub(r"`[^`\n]*`", "", text)


def test_long_lists_are_cut_and_say_so():
    many = 500
    page = Page(render_html(report(many=many)))
    assert f"{many - LAYERS_SHOWN} more layers are in the JSON report." in page
    assert f"{many - GROUPS_SHOWN} more groups are in the JSON report." in page
    assert f"{many - PAIRS_SHOWN} more pairs are in the JSON report." in page
    assert f"{many - REFUSALS_SHOWN} more are in the JSON report." in page
    assert len(render_markdown(report(many=many))) < 20_000  # a comment takes 65,536 characters


def test_verdicts():
    broken = report(broken=("accuracy fell by 5.00 points; 1.00 were allowed",))
    assert "1 constraint not met" in Page(render_html(broken))
    assert render_markdown(broken).startswith("### ❌")
    assert "**Not met:** accuracy fell by 5.00 points" in render_markdown(broken)
    met = report(options=parse_options({"constraints": {"max_accuracy_drop": 0.1}}))
    assert "all constraints met" in Page(render_html(met))
    assert render_markdown(met).startswith("### ✅")
    assert "✗ not exact" in Page(render_html(report(passed=False)))
    assert "**Not exact:**" in render_markdown(report(passed=False))


FIDELITY = FidelityScore(samples=40, score=0.9, agreement=None, relative_error=0.1)
REGRESSION = RegressionScore(samples=40, score=0.91234, mse=2.5, mae=1.25)
BINARY = BinaryScore(samples=40, score=0.9, precision=None, recall=0.5, confusion=((30, 2), (2, 6)), agreement=None)


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (FIDELITY, ("Fidelity 90.00 %", "Relative error – 10.00 %", "there were no labels", "fidelity unchanged")),
        (REGRESSION, ("R² 0.9123 0.9123 0.0000", "Mean squared error 2.5 2.5 unchanged", "R² unchanged")),
        (BINARY, ("Accuracy 90.00 %", "Recall 50.00 %", "6 of label 1 called 1")),
        (None, ("There were no samples left to judge with.",)),
    ],
)
def test_every_kind_of_score(score, words):
    text = render_html(report(scores=(score, score)))
    page = Page(text)
    for one in words:
        assert one in page or one in text, one
    assert render_markdown(report(scores=(score, score)))


def test_a_matrix_of_many_classes_is_left_to_the_json():
    small = render_html(report(scores=(classification(1, 20), classification(1, 20))))
    large = render_html(report(scores=(classification(1, 21), classification(1, 21))))
    assert ("<figure" in small, "<figure" in large) == (True, False)
    thousand = Page(render_html(report(scores=(classification(1, 150), classification(3, 150)))))
    assert "The 100 classes that lost most; 50 more are in the JSON report." in thousand
    assert "points 0 10 90.0 % 70.0 % −20.0" in thousand


def test_unstructured_pruning_speaks_of_weights():
    options = parse_options({"criterion": {"name": "magnitude", "of": "weights"}, "amount": {"remove_weights": 0.5}})
    page = Page(render_html(report(options=options)))
    assert "the same weights masked to zero" in page
    assert "nonzero weights before" in page
    assert "L2 magnitude of weights, removing 50 % of the weights" in page


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [(0.033, 0.019, "within noise"), (0.060, 0.030, "−50.0 %"), (10, 9.7, "within noise"), (10, 8, "−20.0 %")],
)
def test_latencies_that_come_and_go_are_no_change(before: float, after: float, said: str):
    sides = (report().before.model_copy(update={"latency_ms": ms}) for ms in (before, after))
    (found,) = [one for one in measures(*sides, False) if one.name == "Latency"]
    assert said == found.change
    assert (found.tone == "same") == (said == "within noise") == (not found.factor)


def test_what_follows_the_cut_is_named_and_the_proof_is_not_of_it():
    cut = FinishingStep(step="pruned", detail="", seconds=0, file_bytes=9, gzip_bytes=9, accuracy=None, latency_ms=1)
    options = parse_options({"distill": True, "quantize": "int8"})
    page = Page(render_html(report(options=options).model_copy(update={"steps": (cut,)})))
    assert "compensation reconstruct, then distilled, then rounded to eight bits" in page
    assert "That is the model as it was cut" in page
    assert "then distilled" not in Page(render_html(report()))
    assert "as it was cut" not in Page(render_html(report()))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (numbers.count(9999), "9,999"),
        (numbers.count(12345), "12.3 k"),
        (numbers.count(999_600), "1,000 k"),
        (numbers.count(1_234_567), "1.23 M"),
        (numbers.count(4.1e9), "4.10 G"),
        (numbers.size(999), "999 B"),
        (numbers.size(65_536), "64 KiB"),
        (numbers.size(131_500), "128.4 KiB"),
        (numbers.size(2_386_000_000), "2.222 GiB"),
        (numbers.milliseconds(0.00032), "320 ns"),
        (numbers.milliseconds(0.0167), "17 µs"),
        (numbers.milliseconds(12.34), "12.3 ms"),
        (numbers.seconds(75), "75.0 s"),
        (numbers.change(100, 58), "−42.0 %"),
        (numbers.change(0, 3), "new"),
        (numbers.factor(10, 4), "2.50×"),
        (numbers.factor(4, 10), ""),
        (numbers.signed(-0.001, 2), "0.00"),
        (numbers.percent(None), "–"),
    ],
)
def test_numbers_for_people(text, want):
    assert want == text


def test_devices_are_told_in_words() -> None:
    page, short = render_html(report()), render_markdown(report())
    for text in (page, short):
        assert "9,875,712 bytes too few" in text
        assert "1.33 s" in text
        assert "is unknown there" in text
    assert "512 KiB flash" in page
    assert "1 of 2 hold it" in short
    one = report()
    assert one.devices.target is not None
    good = one.model_copy(update={"devices": fits((), holds=True)})
    assert "the uploaded model did not" in render_html(good)
    assert "2 of 2 hold it" in render_markdown(good)


def test_a_compiled_check_is_told_in_words() -> None:
    figures = CompiledFigures(
        compiler="arm-none-eabi-gcc 12.2.1",
        weights_bytes=27_496,
        program_bytes=1_672,
        arena_bytes=14_656,
        stack_bytes=68,
        estimated_flash_bytes=27_488,
        estimated_ram_bytes=14_656,
        instructions=1_167_800,
        samples=4,
        max_relative_difference=2.3e-7,
        agrees=True,
    )
    one = report()
    refused = EspalierError("toolchain_missing", f"not here: {EVIL}", where="qemu", hint="apt install qemu").failure
    for compiled, words in (
        (Compiled(processor="cortex-m4", figures=figures, refused=None),
         ("it agrees with onnxruntime (relative difference 2.3e-7), in 1.17 M instructions each", "Flash 28.48 KiB")),
        (Compiled(processor="cortex-m4", figures=figures.model_copy(update={"agrees": False}), refused=None),
         ("it does NOT agree with onnxruntime",)),
        (Compiled(processor="cortex-m4", figures=None, refused=refused), ("apt install qemu",)),
    ):  # fmt: skip
        told = one.model_copy(update={"devices": one.devices.model_copy(update={"compiled": compiled})})
        page, short = render_html(told), render_markdown(told)
        assert "Compiled for cortex-m4" in page
        assert "<script>alert" not in page + short
        assert all(word in page and word in short for word in words)
