import json
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.utils.flop_counter import FlopCounterMode

from benchmark.real_networks import read_real_networks
from operation.network_cost import network_flops, window_flops
from petct.channels import OrganEncoding, channel_names
from petct.manifest import Architecture, Member, read_manifest
from segmentation.packed_model import build_network, read_packed_model

DEMO = Path(__file__).parent.parent / "resources" / "demo.toml"


def counted(configuration, dataset) -> float:
    """What torch counts in the real network, nothing of which is computed."""
    with torch.device("meta"):
        network = build_network(configuration, dataset)
        window = torch.empty(1, len(dataset["channel_names"]), *configuration.patch_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(window)
    return float(counter.get_total_flops())


def tiny(**changes: object) -> dict[str, object]:
    return {
        "n_stages": 3,
        "features_per_stage": [6, 10, 14],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 1, 5]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 1]],
        "n_conv_per_stage_decoder": [1, 3],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    } | changes


@pytest.mark.parametrize("channels", [2, 10])
@pytest.mark.parametrize(
    ("network_class", "arguments"),
    [
        ("PlainConvUNet", tiny(n_conv_per_stage=[2, 3, 1])),
        ("PlainConvUNet", tiny(n_conv_per_stage=2, n_conv_per_stage_decoder=2)),
        ("ResidualEncoderUNet", tiny(n_blocks_per_stage=[1, 3, 4])),
        ("ResidualEncoderUNet", tiny(n_blocks_per_stage=[2, 2, 2], features_per_stage=[8, 8, 9], kernel_sizes=3)),
    ],
)
def test_it_is_what_torch_counts_in_networks_of_any_shape(
    network_class: str, arguments: dict[str, object], channels: int
) -> None:
    configuration = PlansManager(
        {
            "configurations": {
                "3d": {
                    "patch_size": [10, 12, 20],
                    "architecture": {
                        "network_class_name": f"dynamic_network_architectures.architectures.unet.{network_class}",
                        "arch_kwargs": arguments,
                        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                    },
                }
            }
        }
    ).get_configuration("3d")
    dataset = {"channel_names": dict.fromkeys(map(str, range(channels))), "labels": dict.fromkeys("abc")}
    flops = network_flops(arguments, window=(10, 12, 20), channels=channels, classes=3)
    assert flops == counted(configuration, dataset) > 1e6


@pytest.mark.parametrize("encoding", [OrganEncoding.NONE, OrganEncoding.BINARY])
@pytest.mark.parametrize("architecture", list(Architecture))
def test_networks_of_the_challenges_size(architecture: Architecture, encoding: OrganEncoding) -> None:
    network = read_real_networks()[architecture]
    plans, dataset = network.plans(encoding), network.dataset(encoding)
    (name,) = plans["configurations"]
    configuration = PlansManager(json.loads(json.dumps(plans))).get_configuration(name)
    flops = network_flops(
        configuration.network_arch_init_kwargs,
        window=configuration.patch_size,
        channels=len(channel_names(encoding)),
        classes=3,
    )
    assert flops == counted(configuration, dataset)
    # One pass of the published networks: 1.10, 1.70 and 5.06 TFLOP.
    known = {Architecture.PLAIN: 1.10e12, Architecture.RESENC_M: 1.70e12, Architecture.RESENC_L: 5.06e12}
    if encoding is OrganEncoding.NONE:
        assert flops == pytest.approx(known[architecture], rel=0.03)  # rounded


def demo_members() -> list[Member]:
    manifest = read_manifest(DEMO)
    return [*manifest.psma.members, *manifest.fdg.members]


@pytest.mark.parametrize("member", demo_members(), ids=lambda member: member.name)
def test_the_demo_networks(member: Member) -> None:
    model = read_packed_model(member)
    assert window_flops(model) == counted(model.configuration, model.dataset)
