"""Networks that others wrote, made small from their configurations: no weights are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo import plain

__all__ = ["Entry", "zoo"]


@dataclass(frozen=True)
class Entry:
    """A network, its inputs, and what has to come out: a result, or a refusal."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    source: str
    refused: str = ""  # words of the refusal that is right


def images(side: int = 32, channels: int = 3) -> Callable[[int], Tensor]:
    """Random images."""
    return lambda n: torch.randn(
        n, channels, side, side, generator=torch.Generator().manual_seed(5)
    )


def tokens(length: int = 6, words: int = 30) -> Callable[[int], Tensor]:
    """Random words, none of them padding."""
    return lambda n: torch.randint(
        2, words, (n, length), generator=torch.Generator().manual_seed(5)
    )


def _with_head(model: nn.Module, features: int, k: int) -> nn.Module:
    """The network with one linear layer in place of three large ones."""
    model.classifier = nn.Linear(features, k)
    return model


def _torchvision() -> dict[str, Entry]:
    from torchvision import models as tv

    k = 2
    channels: list[str | int] = [8, "M", 16, "M", 16, 16, "M", 24, 24, "M", 24, 24, "M"]
    block, fused = tv.efficientnet.MBConvConfig, tv.efficientnet.FusedMBConvConfig
    regular = {"depth": 5, "w_0": 8, "w_a": 8.0, "w_m": 2.0, "group_width": 4}
    swin = {"patch_size": [4, 4], "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2]}
    named: dict[str, tuple[Callable[[], nn.Module], int]] = {
        "alexnet": (lambda: _with_head(tv.alexnet(), 256 * 36, k), 64),
        "vgg": (lambda: _with_head(tv.VGG(tv.vgg.make_layers(channels)), 24 * 49, k), 32),
        "vgg_bn": (
            lambda: _with_head(tv.VGG(tv.vgg.make_layers(channels, batch_norm=True)), 24 * 49, k),
            32,
        ),
        "resnet18": (lambda: tv.ResNet(tv.resnet.BasicBlock, [1, 2, 1, 1], k), 32),
        "resnet50": (lambda: tv.ResNet(tv.resnet.Bottleneck, [1, 2, 1, 1], k), 32),
        "resnext": (
            lambda: tv.ResNet(tv.resnet.Bottleneck, [1, 1, 1, 1], k, groups=8, width_per_group=8),
            32,
        ),
        "densenet": (lambda: tv.DenseNet(8, (2, 2, 2), 16, num_classes=k), 32),
        "squeezenet1_0": (lambda: tv.squeezenet1_0(num_classes=k), 48),
        "squeezenet1_1": (lambda: tv.squeezenet1_1(num_classes=k), 48),
        "googlenet": (
            lambda: tv.googlenet(num_classes=k, aux_logits=False, init_weights=False),
            32,
        ),
        "inception_v3": (
            lambda: tv.inception_v3(num_classes=k, aux_logits=False, init_weights=False),
            80,
        ),
        "mobilenet_v2": (lambda: tv.mobilenet_v2(num_classes=k), 32),
        "mobilenet_v3": (lambda: tv.mobilenet_v3_small(num_classes=k), 32),
        "mnasnet": (lambda: tv.mnasnet0_5(num_classes=k), 32),
        "shufflenet": (lambda: tv.shufflenet_v2_x0_5(num_classes=k), 32),
        "efficientnet": (
            lambda: tv.EfficientNet(
                [block(1, 3, 1, 8, 8, 1, 1, 1), block(4, 5, 2, 8, 16, 2, 1, 1)],
                0.2,
                num_classes=k,
                last_channel=64,
            ),
            32,
        ),
        "efficientnet_v2": (
            lambda: tv.EfficientNet(
                [
                    fused(1, 3, 1, 8, 8, 1),
                    fused(4, 3, 2, 8, 16, 2),
                    block(4, 3, 2, 16, 24, 2, 1, 1),
                ],
                0.2,
                num_classes=k,
                last_channel=64,
            ),
            32,
        ),
        "regnet_x": (
            lambda: tv.RegNet(tv.regnet.BlockParams.from_init_params(**regular), k, stem_width=8),
            32,
        ),
        "regnet_y": (
            lambda: tv.RegNet(
                tv.regnet.BlockParams.from_init_params(**regular, se_ratio=0.25), k, stem_width=8
            ),
            32,
        ),
        "convnext": (
            lambda: tv.ConvNeXt(
                [tv.convnext.CNBlockConfig(8, 16, 2), tv.convnext.CNBlockConfig(16, None, 2)],
                num_classes=k,
            ),
            32,
        ),
        "vit": (lambda: tv.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=k), 32),
        "swin": (
            lambda: tv.SwinTransformer(window_size=[4, 4], num_classes=k, **swin),
            32,
        ),
        "swin_v2": (
            lambda: tv.SwinTransformer(
                window_size=[4, 4],
                num_classes=k,
                block=tv.swin_transformer.SwinTransformerBlockV2,
                downsample_layer=tv.swin_transformer.PatchMergingV2,
                **swin,
            ),
            32,
        ),
        "maxvit": (
            lambda: tv.MaxVit((32, 32), 8, 4, [8, 16], [1, 1], 4, 0.0, num_classes=k),
            32,
        ),
    }
    return {
        name: Entry(build, images(side), "torchvision") for name, (build, side) in named.items()
    }


def _timm() -> dict[str, Entry]:
    import timm

    def made(name: str, **options: Any) -> Callable[[], nn.Module]:
        return lambda: timm.create_model(name, pretrained=False, num_classes=2, **options)

    four = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    small: dict[str, tuple[str, dict[str, Any], int]] = {
        "timm vit": ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "patch_size": 8}, 32),
        "timm deit distilled": (
            "deit_tiny_distilled_patch16_224",
            {"img_size": 32, "depth": 2, "patch_size": 8},
            32,
        ),
        "timm beit": (
            "beit_base_patch16_224",
            {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2},
            32,
        ),
        "timm levit": (
            "levit_128s",
            {
                "img_size": 64,
                "embed_dim": (16, 24, 32),
                "num_heads": (2, 2, 2),
                "depth": (1, 1, 1),
                "key_dim": 8,
            },
            64,
        ),
        "timm efficientformer": (
            "efficientformer_l1",
            {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 2)},
            224,
        ),
        "timm tiny_vit": (
            "tiny_vit_5m_224",
            {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)},
            64,
        ),
        "timm coat": (
            "coat_tiny",
            {
                "img_size": 64,
                "embed_dims": (32, 32, 32, 32),
                "serial_depths": (1, 1, 1, 1),
                "parallel_depth": 1,
                "mlp_ratios": (2, 2, 2, 2),
            },
            64,
        ),
        "timm convnextv2": ("convnextv2_atto", four, 32),
        "timm pvt_v2": (
            "pvt_v2_b0",
            {"embed_dims": (8, 16, 24, 32), "num_heads": (1, 1, 2, 2)},
            32,
        ),
        "timm xcit": (
            "xcit_nano_12_p8_224",
            {"img_size": 32, "depth": 2, "embed_dim": 16, "num_heads": 2},
            32,
        ),
        "timm ghostnet": ("ghostnet_050", {}, 32),
        "timm nf_resnet": (
            "nf_resnet26",
            {"depths": (1, 1, 1, 1), "channels": (32, 48, 64, 96)},
            32,
        ),
        "timm mobilevit": ("mobilevit_xxs", {}, 64),
        "timm edgenext": ("edgenext_xx_small", {}, 64),
        "timm repvgg": ("repvgg_a0", {}, 32),
    }
    found = {
        name: Entry(made(arch, **options), images(side), "timm")
        for name, (arch, options, side) in small.items()
    }
    models = timm.models
    mixer = models.mlp_mixer
    size = {"num_classes": 2, "img_size": 32, "patch_size": 8, "num_blocks": 2, "embed_dim": 24}
    built: dict[str, Callable[[], nn.Module]] = {
        "timm mixer": lambda: mixer.MlpMixer(**size),
        "timm resmlp": lambda: mixer.MlpMixer(
            block_layer=mixer.ResBlock, mlp_ratio=4, norm_layer=mixer.Affine, **size
        ),
        "timm gmlp": lambda: mixer.MlpMixer(
            block_layer=mixer.SpatialGatingBlock, mlp_layer=mixer.GatedMlp, mlp_ratio=4, **size
        ),
        "timm convmixer": lambda: models.convmixer.ConvMixer(
            16, 2, kernel_size=5, patch_size=4, num_classes=2
        ),
        "timm poolformer": lambda: models.metaformer.MetaFormer(
            num_classes=2, token_mixers=models.metaformer.Pooling, **four
        ),
        "timm eca_resnet": lambda: models.resnet.ResNet(
            models.resnet.Bottleneck,
            (1, 1, 1, 1),
            num_classes=2,
            channels=(16, 24, 32, 48),
            block_args={"attn_layer": "eca"},
        ),
    }
    return found | {name: Entry(build, images(32), "timm") for name, build in built.items()}


def _transformers() -> dict[str, Entry]:
    import transformers as tf

    size = {
        "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 32, "num_labels": 2, "pad_token_id": 0,
    }  # fmt: skip

    class Classifier(nn.Module):
        """A network's logits."""

        def __init__(self, network: nn.Module, mask: bool = False):
            super().__init__()
            self.network, self.mask = network, mask

        def forward(self, x: Tensor) -> Tensor:
            if self.mask:
                return self.network(x, attention_mask=(x % 3 != 0).long()).logits
            return self.network(x).logits

    def bert(**options: Any) -> nn.Module:
        return Classifier(
            tf.BertForSequenceClassification(tf.BertConfig(**size, **options)), mask=True
        )

    def gpt2() -> nn.Module:
        config = tf.GPT2Config(
            vocab_size=30, n_embd=16, n_layer=2, n_head=2, num_labels=2, pad_token_id=0
        )
        return Classifier(tf.GPT2ForSequenceClassification(config))

    def t5() -> nn.Module:
        config = tf.T5Config(
            vocab_size=30, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )  # fmt: skip

        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder, self.head = tf.T5EncoderModel(config), nn.Linear(16, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.encoder(x).last_hidden_state.mean(1))

        return Encoder()

    def mamba() -> nn.Module:
        config = tf.MambaConfig(vocab_size=30, hidden_size=16, state_size=4, num_hidden_layers=2)

        class Last(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body, self.head = tf.MambaModel(config), nn.Linear(16, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.body(x, use_cache=False).last_hidden_state[:, -1])

        return Last()

    def vision(kind: str) -> Callable[[], nn.Module]:
        options = {**size, "image_size": 16, "patch_size": 4}
        options.pop("vocab_size")
        options.pop("pad_token_id")
        config = getattr(tf, f"{kind}Config")(**options)
        return lambda: Classifier(getattr(tf, f"{kind}ForImageClassification")(config))

    def named(kind: str, **options: Any) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            config = getattr(tf, f"{kind}Config")(**{**size, **options})
            return Classifier(getattr(tf, f"{kind}ForSequenceClassification")(config))

        return build

    words, pictures = tokens(), images(16)
    return {
        "bert eager": Entry(lambda: bert(attn_implementation="eager"), words, "transformers"),
        "bert sdpa": Entry(lambda: bert(attn_implementation="sdpa"), words, "transformers"),
        "gpt2": Entry(gpt2, words, "transformers"),
        "roberta": Entry(named("Roberta", max_position_embeddings=40), words, "transformers"),
        "llama": Entry(named("Llama", num_key_value_heads=1), words, "transformers"),
        "mistral": Entry(named("Mistral", num_key_value_heads=1), words, "transformers"),
        "electra": Entry(named("Electra", embedding_size=16), words, "transformers"),
        "albert": Entry(named("Albert", embedding_size=16), words, "transformers"),
        "distilbert": Entry(
            named("DistilBert", dim=16, hidden_dim=32, n_layers=2, n_heads=2), words, "transformers"
        ),
        "gpt-neox": Entry(named("GPTNeoX"), words, "transformers"),
        "mamba": Entry(mamba, words, "transformers"),
        "t5": Entry(t5, words, "transformers"),
        "vit of transformers": Entry(vision("ViT"), pictures, "transformers"),
        "deit of transformers": Entry(vision("DeiT"), pictures, "transformers"),
    }


def _plain() -> dict[str, Entry]:
    return {
        name: Entry(build, inputs, "torch", refused)
        for name, (build, inputs, refused) in plain.NETWORKS.items()
    }


# Those that take longest come last.
_LARGE = (
    "googlenet", "alexnet", "resnext", "resnet18", "resnet50", "timm repvgg", "inception_v3",
)  # fmt: skip


def zoo() -> dict[str, Entry]:
    """All networks by name."""
    found = {**_plain(), **_transformers(), **_torchvision(), **_timm()}
    return {name: found[name] for name in sorted(found, key=_LARGE.__contains__)}
