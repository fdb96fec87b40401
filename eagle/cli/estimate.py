"""Compute what training a head takes: parameters, memory of a GPU, hours, disk. Nothing is loaded or measured.

eagle-hsd estimate --target llama-3.1-8b
eagle-hsd estimate --target llama-3.3-70b --shard-target --tokens-per-batch 4096
eagle-hsd estimate --target DIR --num-gpus 1 --stored-features
"""

from collections.abc import Iterator, Sequence

from eagle.estimates import GIGA, Estimate, EstimateOptions, estimate
from eagle.options import parse


def lines(found: Estimate) -> Iterator[str]:
    """For the user, one number each."""
    options = found.options
    yield "computed, not measured:"
    yield f"target {found.target_parameters / GIGA:.2f} G parameters, head {found.head_parameters / GIGA:.3f} G"
    yield f"FLOP a token: target {found.target_flops / GIGA:.1f} G, head {found.head_flops / GIGA:.1f} G"
    yield f"memory of each of {options.num_gpus} GPUs:"
    for name, size in found.memory.items():
        yield f"  {size / GIGA:6.1f} GB  {name}"
    total = sum(found.memory.values()) / GIGA
    fits = "fits" if total < options.gpu_gb else "does not fit"
    yield f"  {total:6.1f} GB  in all: {fits} into {options.gpu_gb:g} GB"
    assumed = f"{options.peak_tflops:g} TFLOP/s at {options.utilisation:g} of the peak"
    yield f"hours: {found.hours:.1f} for {options.tokens / 1e6:g} M tokens ({assumed})"
    yield f"features of them on disk: {found.feature_bytes / 1e12:.2f} TB"


def main(argv: Sequence[str] | None = None) -> None:
    for line in lines(estimate(parse(EstimateOptions, __doc__ or "", argv))):
        print(line)
