# ruff: noqa: N806
from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from deepme import networks
from deepme.errors import EnvironmentFault, InputError, UsageError
from deepme.networks import (
    AttentionNetwork,
    FeatureGate,
    Network,
    create_network,
    forward_flops,
)
from deepme.small_vgg import SmallVGG


def build(backbone: str = "vgg_small", weights: object = "none", size: int = 8):
    return create_network(backbone, 3, weights=str(weights), image_size=size)


def images(count: int = 2, size: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


class TestNetwork:
    def test_pixels_are_normalised_by_channel(self):
        trunk = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        trunk.head_hidden_size = 3
        network = Network(trunk, 2, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
        pixels = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
        _, features_Bd = network(pixels.expand(1, 3, 4, 4))
        expected = [(1 - 0.5) / 0.5, (0 - 0.25) / 0.25, 51 / 255]
        assert_close(features_Bd, torch.tensor([expected]))

    def test_pixels_are_averaged_before_the_trunk(self):
        whole = build(size=16).eval()
        small = create_network("vgg_small", 3, weights="none", image_size=16, shrink=2)
        small.load_state_dict(whole.state_dict())
        pixels = images(5, 8).repeat_interleave(2, 2).repeat_interleave(2, 3)
        pixels[..., ::2, ::2] = pixels[..., ::2, ::2] // 2 * 2
        sums = pixels.float().unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
        normal = (sums / 255 - whole.mean) / whole.std
        assert_close(small.eval().features(pixels), whole.trunk(normal))
        assert forward_flops(small, 16) < forward_flops(whole, 16) / 3.9

    def test_logits_are_a_linear_map_of_the_features(self):
        network = build().eval()
        logits_BC, features_Bd = network(images())
        head = network.head
        assert logits_BC.shape == (2, 3)
        assert features_Bd.shape == (2, 256)
        assert_close(logits_BC, features_Bd @ head.weight.T + head.bias)

    @pytest.mark.parametrize("backbone", ["vgg_small", "test_vit"])
    def test_an_empty_batch_gives_empty_outputs(self, backbone):
        network = build(backbone, size=16).eval()
        logits_BC, features_Bd = network(images(0, 16))
        assert logits_BC.shape == (0, 3)
        assert features_Bd.shape == (0, network.head.in_features)

    def test_the_head_starts_after_glorot(self):
        head = Network(SmallVGG(), 200).head
        assert head.weight.std().item() == pytest.approx((2 / (256 + 200)) ** 0.5, 0.05)
        assert not head.bias.any()

    def test_the_statistics_of_the_backbone_are_taken(self):
        network = build("test_vit", size=16)
        config = timm.get_pretrained_cfg("test_vit")
        assert config.mean != (0.485, 0.456, 0.406)
        assert_close(network.mean.flatten(), torch.tensor(config.mean))
        assert_close(network.std.flatten(), torch.tensor(config.std))

    def test_statistics_are_not_among_the_weights(self):
        assert not {"mean", "std"} & build().state_dict().keys()


class TestFeatureGate:
    def test_the_scale_of_all_features_does_not_matter(self):
        gate = FeatureGate(6, 2)
        features = torch.randn(4, 6)
        logits_BT, hidden = gate(features)
        assert logits_BT.shape == (4, 2)
        assert hidden.shape == (4, 256)
        assert_close(gate(features * 100)[0], logits_BT, atol=1e-3, rtol=1e-3)


class TestAttention:
    def test_it_weighs_normalised_features_and_classifies_them_together(self):
        experts = [build().eval(), build("vgg_tiny").eval()]
        pixels = images()
        features = [expert(pixels)[1] for expert in experts]
        network = AttentionNetwork(experts, 5, learned=True).eval()
        nn.init.normal_(network.attention.weight)
        network.normalize.running_mean.normal_()
        network.normalize.running_var.uniform_(0.5, 2)
        mean, var = network.normalize.running_mean, network.normalize.running_var
        joined = (torch.cat(features, 1) - mean) / (var + 1e-5).sqrt() / 320**0.5
        whole = joined.split([256, 64], dim=1)
        score = joined @ network.attention.weight.T + network.attention.bias
        weights = 2 * score.softmax(dim=1)
        weighed = [weights[:, :1] * whole[0], weights[:, 1:] * whole[1]]
        weighed = 16 * torch.cat(weighed, dim=1)
        logits_BN, given = network(pixels)
        assert_close(given, weighed)
        assert_close(logits_BN, weighed @ network.head.weight.T + network.head.bias)
        assert logits_BN.shape == (2, 5)
        assert given.shape == (2, 256 + 64)


class TestBackbones:
    @pytest.mark.parametrize(
        ("backbone", "size", "width"),
        [("vgg_small", 8, 256), ("test_vit", 32, 64), ("test_resnet", 16, 96)],
    )
    def test_any_timm_model_gives_features(self, backbone, size, width):
        network = build(backbone, size=size).eval()
        assert network.head.in_features == width
        assert network(images(2, size))[1].shape == (2, width)

    def test_a_new_network_is_in_training_mode(self):
        assert all(module.training for module in build().modules())

    def test_building_depends_on_the_seed_alone(self):
        torch.manual_seed(5)
        one = build().state_dict()
        torch.manual_seed(5)
        two = build().state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)

    def test_an_unknown_name_gets_near_ones(self):
        with pytest.raises(
            UsageError, match=r"--backbone is vgg61.*did you mean .*vgg"
        ):
            build("vgg61")

    def test_a_name_like_no_other(self):
        with pytest.raises(UsageError, match=r"see timm\.list_models\(\)"):
            build("§" * 40)

    @pytest.mark.parametrize(("backbone", "size"), [("test_vit", 10), ("vgg11", 8)])
    def test_an_image_too_small_for_it(self, backbone, size):
        with pytest.raises(UsageError, match=f"not work at --image-size {size}: "):
            build(backbone, size=size)

    def test_a_fixed_input_size_is_that_of_the_smaller_image(self):
        network = create_network("test_vit", 3, weights="none", image_size=64, shrink=2)
        assert network.trunk.patch_embed.img_size == (32, 32)
        assert network.eval()(images(2, 64))[1].shape == (2, 64)

    def test_an_image_that_cannot_be_divided(self):
        with pytest.raises(UsageError, match="--shrink is 3, expected a divisor of th"):
            create_network("vgg_small", 3, weights="none", image_size=16, shrink=3)

    @pytest.mark.parametrize("backbone", ["vgg_small", "vgg_tiny"])
    def test_the_small_ones_have_no_weights_on_the_hub(self, backbone):
        with pytest.raises(EnvironmentFault, match="no pre-trained weights; give a"):
            build(backbone, weights="hub")

    def test_vgg_tiny_has_a_sixteenth_of_the_weights(self):
        small, tiny = (
            sum(weight.numel() for weight in build(name).trunk.parameters())
            for name in ("vgg_small", "vgg_tiny")
        )
        assert small / 17 < tiny < small / 15

    def test_the_hub_cannot_be_reached(self, monkeypatch):
        def refuse(*_args: object, **_options: object) -> None:
            raise OSError("We couldn't connect to the hub\nand more lines")

        monkeypatch.setattr(networks.timm, "create_model", refuse)
        with pytest.raises(EnvironmentFault, match="We couldn't connect to the hub;"):
            build("test_vit", weights="hub")


class TestLocalWeights:
    @pytest.fixture
    def trunk(self) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        return SmallVGG().state_dict()

    def assert_taken(self, path: Path, trunk: dict[str, torch.Tensor]) -> None:
        found = build(weights=path).trunk.state_dict()
        assert found.keys() == trunk.keys()
        assert all(torch.equal(found[name], trunk[name]) for name in trunk)

    def test_a_plain_pth_file(self, tmp_path, trunk):
        torch.save(trunk, tmp_path / "trunk.pth")
        self.assert_taken(tmp_path / "trunk.pth", trunk)

    def test_a_safetensors_file_with_a_classifier(self, tmp_path, trunk):
        save_file(
            trunk | {"head.weight": torch.zeros(9, 256)}, tmp_path / "w.safetensors"
        )
        self.assert_taken(tmp_path / "w.safetensors", trunk)

    def test_the_weights_of_an_expert(self, tmp_path, trunk):
        expert = {f"trunk.{name}": value for name, value in trunk.items()}
        expert |= {"head.weight": torch.zeros(9, 256), "head.bias": torch.zeros(9)}
        save_file(expert, tmp_path / "w.safetensors")
        self.assert_taken(tmp_path / "w.safetensors", trunk)

    def test_the_weights_of_another_backbone(self, tmp_path, trunk):
        first, *others = trunk
        wrong = {name: trunk[name] for name in others[1:]} | {first: torch.zeros(1)}
        save_file(wrong, tmp_path / "w.safetensors")
        message = "1 tensors are missing and 1 have another shape"
        with pytest.raises(InputError, match=message):
            build(weights=tmp_path / "w.safetensors")

    def test_all_of_a_gate_s_weights_or_none(self, tmp_path):
        one, two = FeatureGate(8, 3, width=4), FeatureGate(8, 3, width=4)
        save_file(one.state_dict(), tmp_path / "w.safetensors")
        networks.take_over(two, tmp_path / "w.safetensors")
        for name, value in one.state_dict().items():
            assert torch.equal(two.state_dict()[name], value)
        for other in (FeatureGate(9, 3, width=4), build()):
            with pytest.raises(InputError, match="are of another kind of network; use"):
                networks.take_over(other, tmp_path / "w.safetensors")

    @pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x04N."])
    def test_a_file_of_something_else(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"cannot read --weights .*{name}"):
            build(weights=tmp_path / name)

    def test_a_pickle_that_would_run_code_is_not_run(self, tmp_path):
        marker = tmp_path / "marker"

        class Hostile:
            def __reduce__(self):
                return (Path.touch, (marker,))

        (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": Hostile()}))
        with pytest.raises(InputError, match="cannot read --weights"):
            build(weights=tmp_path / "w.pth")
        assert not marker.exists()

    def test_a_zip_file_that_unpacks_to_more_than_it_holds(self, tmp_path):
        path = tmp_path / "w.pth"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"\0" * 10**6)
        with pytest.raises(InputError, match="unpack to more than the file holds"):
            build(weights=path)

    def test_tensors_that_are_not_dense(self, tmp_path):
        torch.save({"a": torch.zeros(3).to_sparse()}, tmp_path / "w.pth")
        with pytest.raises(InputError, match="holds tensors that are not dense"):
            build(weights=tmp_path / "w.pth")

    @pytest.mark.parametrize("content", [{"state_dict": {}}, [torch.zeros(1)]])
    def test_a_file_with_more_than_tensors(self, tmp_path, content):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(InputError, match="no plain dict of tensors"):
            build(weights=tmp_path / "w.pth")

    @pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "folder.pth"])
    def test_no_such_file(self, tmp_path, name):
        (tmp_path / "folder.pth").mkdir()
        with pytest.raises(InputError, match=rf"cannot read --weights .*{name}"):
            build(weights=tmp_path / name)


def test_operations_are_two_for_each_multiply_add():
    network = create_network("vgg_small", 5, weights="none", image_size=8)
    # 3 × 3 kernels: channels in and out, at 8, 4, 2 and 1 pixels a side; the head.
    by_hand = 9 * 64 * 3 * 32 + 9 * 16 * 32 * 64
    by_hand += 9 * 4 * (64 * 128 + 128 * 128) + 9 * (128 * 256 + 256 * 256)
    by_hand += 256 * 5
    assert network.training
    assert forward_flops(network, 8) == 2 * by_hand
    assert network.training
