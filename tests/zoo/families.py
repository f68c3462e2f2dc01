"""``python -m tests.zoo.families``: a network of every family of timm and of transformers.

Nobody here chose them. Of timm it is the smallest architecture of every module that defines some,
on the smallest images that it takes; of transformers the base model of every configuration that
can be made tiny by naming its sizes. ``docs/families.md`` and ``docs/families.json`` are written as
it goes; ``--resume`` keeps what an earlier run found right. Some 40 CPU minutes, 6 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.check import Outcome, outcome_of
from tests.zoo.networks import Entry, images, tokens
from tests.zoo.table import read, write

TITLE = "Families of networks that were tried"
FILE = "families"
LARGEST = {"timm": 4e7, "transformers": 1e7}  # parameters
SIDES = (64, 96, 128, 160, 192, 224, 240, 256, 299, 384)
# What configurations call their sizes.
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37,
    "vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_layers": 2, "n_heads": 4,
    "dim": 32, "hidden_dim": 37, "num_layers": 2, "num_heads": 4, "d_ff": 37, "d_kv": 8,
    "image_size": 32, "patch_size": 8, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 64, "n_positions": 64, "embedding_size": 16, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "num_experts": 4, "num_local_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_inner": 37,
    "ffn_dim": 37, "word_embed_proj_dim": 32, "num_encoder_layers": 2, "state_size": 4,
    "conv_kernel": 4, "depths": [1, 1], "hidden_sizes": [16, 32], "embed_dim": 16,
}  # fmt: skip
# What a network may be refused for: a draw at every call, weights that it writes, no batch.
REFUSED = ("draws a new network", "is written into by", "one row of outputs for each input")
LEFT_OUT = ("longt5",)  # its blocks of positions take 12 GB, whatever its sizes
FEW = ("depths", "hidden_sizes", "embed_dim")  # that other sizes of some have to fit


class TwoEntries(nn.Module):
    """Two entries of what a base model returns."""

    def __init__(self, network: nn.Module, reads: str):
        super().__init__()
        self.network, self.reads = network, reads

    def forward(self, x: Tensor) -> Tensor:
        given = {self.reads: x}
        if self.network.config.is_encoder_decoder and self.reads == "input_ids":
            given["decoder_input_ids"] = x
        out = self.network(**given)
        found = getattr(out, "last_hidden_state", None)
        flat = (out[0] if found is None else found).flatten(1)
        return flat[:, :: max(1, flat.shape[1] // 2)][:, :2]


def timm_families() -> Iterator[tuple[str, Entry]]:
    """The smallest architecture of every module of timm, as far as it can be run."""
    import timm

    def module(name: str) -> str:
        return timm.models.model_entrypoint(name).__module__

    names = sorted(timm.list_models(pretrained=False), key=module)
    for _, group in itertools.groupby(names, module):
        sizes = {name: _size(partial(timm.create_model, name)) for name in group}
        name = min(sizes, key=lambda key: sizes[key])
        if sizes[name] < LARGEST["timm"] and (entry := _smallest_images(name)) is not None:
            yield name, entry


def _smallest_images(name: str) -> Entry | None:
    import timm

    channels = timm.get_pretrained_cfg(name, allow_unregistered=True)
    channels = channels.input_size[0] if channels is not None else 3
    for side, options in itertools.product(SIDES, ("img_size", "")):
        given = {options: side} if options else {}
        build = partial(timm.create_model, name, num_classes=2, **given)
        with contextlib.suppress(Exception), torch.no_grad():
            build().eval()(images(side, channels)(2))
            return Entry(build, images(side, channels), "timm")
    return None


def transformers_families() -> Iterator[tuple[str, Entry]]:
    """The base model of every configuration of transformers that naming sizes makes run."""
    from transformers import AutoModel, logging
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    logging.set_verbosity_error()
    for name in sorted(set(CONFIG_MAPPING.keys()) - set(LEFT_OUT)):
        for left_out in ((), FEW):
            with contextlib.suppress(Exception):
                config = _tiny(CONFIG_MAPPING[name], left_out)
                # Experts one by one: torch has products by groups in 32 bits at most.
                build = partial(AutoModel.from_config, config, experts_implementation="eager")
                if _size(build) >= LARGEST["transformers"]:
                    continue
                entry = _base_model(build)
                with torch.no_grad():
                    entry.build().eval()(entry.inputs(2))
                yield name, entry
                break


def _tiny(kind: Any, left_out: tuple[str, ...]) -> Any:
    default = kind()
    known = {
        key: value
        for key, value in SIZES.items()
        if hasattr(default, key) and key not in left_out
        if not isinstance(getattr(type(default), key, None), property)
    }
    return kind(**known)


def _base_model(build: Callable[[], nn.Module]) -> Entry:
    with torch.device("meta"):
        model = build()
    reads, side = model.main_input_name, getattr(model.config, "image_size", 32)
    inputs = {
        "pixel_values": images(side if isinstance(side, int) else 32),
        "input_ids": tokens(6, 30),
        "input_values": lambda n: torch.randn(n, 800, generator=torch.Generator().manual_seed(1)),
    }[reads]
    return Entry(lambda: TwoEntries(build(), reads), inputs, "transformers")


def _size(build: Callable[[], nn.Module]) -> float:
    """Parameters, counted without making them."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in build().parameters())
    except Exception:
        return float("inf")


def reason_not_to_compare(entry: Entry) -> str:
    """Why plain PyTorch gives no oracle in float64; empty where it does."""
    torch.manual_seed(0)
    model, x = entry.build().eval().double().requires_grad_(True), entry.inputs(1)
    try:
        out = model(x.double() if x.is_floating_point() else x)
        out.sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        finite = all(bool(t.isfinite().all()) for t in (out, *gradients))
        return "" if finite else "not finite in float64"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"


def main(arguments: list[str] | None = None) -> None:
    """Run all families, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo.families", description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--source", choices=sorted(LARGEST))
    parser.add_argument("--resume", action="store_true")
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    known = {o.name: o for o in read(FILE)} if asked.resume or asked.names else {}
    families = {"timm": timm_families, "transformers": transformers_families}
    wanted = [asked.source] if asked.source else list(families)
    for name, entry in itertools.chain.from_iterable(families[source]() for source in wanted):
        if asked.names and name not in asked.names:
            continue
        if asked.resume and name in known and known[name].right:
            continue
        start = time.perf_counter()
        found = known[name] = _found(name, entry)
        word = "right" if found.right else "skip" if found.oracle else "WRONG"
        print(word, name, f"{time.perf_counter() - start:.1f} s", found.oracle, flush=True)
        write(FILE, TITLE, sorted(known.values(), key=lambda o: (o.source, o.name)))


def _found(name: str, entry: Entry) -> Outcome:
    if reason := reason_not_to_compare(entry):
        return Outcome(name, entry.source, oracle=reason)
    found = outcome_of(name, entry, n=1)
    found.right |= any(words in found.refusal for words in REFUSED)
    return found


if __name__ == "__main__":
    main()
