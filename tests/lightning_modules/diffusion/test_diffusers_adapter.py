"""FromDiffusers: U-Net of diffusers as a denoiser, and its equality with DenoisingUNet."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from darkroom.errors import UsageError
from darkroom.lightning_modules.diffusion import DDPM
from darkroom.lightning_modules.diffusion.blocks import Attention, Block
from darkroom.lightning_modules.diffusion.diffusers_adapter import FromDiffusers
from darkroom.lightning_modules.diffusion.sampling.sampler_config import Sampling
from darkroom.lightning_modules.diffusion.unet import DenoisingUNet


def unet(**options: Any) -> nn.Module:
    """Build UNet2DModel with the settings of Ho et al.'s released weights, two resolutions and one block each."""
    diffusers = pytest.importorskip("diffusers")  # takes seconds, therefore not during collection
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        **{
            **{"sample_size": 8, "block_out_channels": (128, 256), "layers_per_block": 1, "norm_eps": 1e-6},
            **{"down_block_types": ("AttnDownBlock2D", "DownBlock2D")},
            **{"up_block_types": ("UpBlock2D", "AttnUpBlock2D")},
            **{"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": None},
            **options,
        }
    ).eval()


def narrow(**options: Any) -> nn.Module:
    return unet(block_out_channels=(8, 8), norm_num_groups=4, **options)


def copy_into(denoiser: DenoisingUNet, theirs: nn.Module) -> None:
    """Copy weights of diffusers into ours, layer by layer in the same order."""
    blocks = [m for m in (*denoiser.down, *denoiser.middle, *denoiser.up) if isinstance(m, Block)]
    down, middle, up = theirs.down_blocks, theirs.mid_block, theirs.up_blocks
    resnets = [r for part in (*down, middle, *up) for r in part.resnets]
    pairs = [(denoiser.stem, theirs.conv_in), (denoiser.head[0], theirs.conv_norm_out)]
    pairs += [(denoiser.head[2], theirs.conv_out), (denoiser.down[1].conv, down[0].downsamplers[0].conv)]
    pairs += [(denoiser.up[2].conv, up[0].upsamplers[0].conv)]
    pairs += [(denoiser.embed[0], theirs.time_embedding.linear_1), (denoiser.embed[2], theirs.time_embedding.linear_2)]
    for our, its in zip(blocks, resnets, strict=True):
        pairs += [(getattr(our, name), getattr(its, name)) for name in ("norm1", "conv1", "norm2", "conv2")]
        pairs += [] if its.conv_shortcut is None else [(our.shortcut, its.conv_shortcut)]
    ours = [block.attention for block in blocks if isinstance(block.attention, Attention)]
    for our, its in zip(ours, [*down[0].attentions, *middle.attentions, *up[1].attentions], strict=True):
        pairs += [(our.norm, its.group_norm), (our.out, its.to_out[0])]
        load(our.query_key_value, [its.to_q, its.to_k, its.to_v])
    load(denoiser.tell, [its.time_emb_proj for its in resnets])
    for our, its in pairs:
        load(our, [its])


def load(layer: nn.Module, parts: list[nn.Module]) -> None:
    for name in ("weight", "bias"):
        layer.get_parameter(name).data.copy_(torch.cat([part.get_parameter(name).data for part in parts]))


def noisy() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 8, 8), torch.tensor([3, 900])


def test_denoising_unet_with_diffusers_weights_is_equal() -> None:
    theirs = unet()
    ours = DenoisingUNet((3, 8, 8), multipliers=(1, 2), blocks=1, attention=(8,)).eval()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    copy_into(ours, theirs)
    x, t = noisy()
    expected = FromDiffusers(theirs)(x, t)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(x, t), expected, rtol=1e-3, atol=1e-4)


def test_label_is_class_embedding_and_last_is_null() -> None:
    network = FromDiffusers(narrow(num_class_embeds=4), (3, 8, 8), num_classes=3)
    x, t = noisy()
    every = [network(x, t.float(), label=torch.tensor([k, k])) for k in range(4)]
    assert torch.equal(network(x, t.float()), every[network.null_label])
    assert all(not torch.equal(every[k], every[j]) for k in range(4) for j in range(k))


def test_bfloat16_and_self_conditioning_are_supported() -> None:
    network = FromDiffusers(narrow(in_channels=6, out_channels=6), (3, 8, 8), None, True, True).bfloat16()
    x, t = noisy()
    output = network(x, t + 0.5, x0=x)
    assert (output.shape, output.dtype) == ((2, 6, 8, 8), torch.bfloat16)
    assert torch.equal(network(x, t), network(x, t, x0=torch.zeros_like(x)))


@pytest.mark.parametrize(
    ("built", "wanted", "message"),
    [
        ({"num_class_embeds": 3}, {"num_classes": 3}, "num_class_embeds 3; this model needs 4"),
        ({}, {"num_classes": 3}, "num_class_embeds None; this model needs 4"),
        ({"num_class_embeds": 3}, {}, "num_class_embeds 3; this model needs null"),
        ({}, {"image_shape": (1, 8, 8)}, "in_channels 3; this model needs 1"),
        ({}, {"image_shape": (3, 8, 8), "learned_variance": True}, "out_channels 3; this model needs 6"),
        ({}, {"image_shape": (3, 8, 8), "self_conditioning": True}, "in_channels 3; this model needs 6"),
    ],
)
def test_network_with_mismatched_settings_raises(built: dict[str, Any], wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FromDiffusers(narrow(**built), **wanted)


def test_unsupported_inputs_raise() -> None:
    network, (x, t) = FromDiffusers(narrow()), noisy()
    with pytest.raises(UsageError, match="num_classes"):
        network(x, t, label=t)
    with pytest.raises(UsageError, match="self_conditioning"):
        network(x, t, x0=x)


def test_ddpm_wraps_diffusers_network() -> None:
    sampling = Sampling(steps=2, guidance=2.0)
    model = DDPM((3, 8, 8), 3, narrow(num_class_embeds=4), conditional=True, sampling=sampling)
    assert isinstance(model.network, FromDiffusers)
    assert model.sample(2, labels=[0, 2]).shape == (2, 3, 8, 8)
    with pytest.raises(UsageError, match="num_class_embeds None; this model needs 4"):
        DDPM((3, 8, 8), 3, narrow(), conditional=True)
