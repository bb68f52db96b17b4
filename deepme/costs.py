"""What networks cost: weights, operations of their training, operations an image."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deepme.artifacts.comparison import Cost
from deepme.artifacts.expert import WEIGHTS_KIND, WEIGHTS_SCHEMA, Expert
from deepme.inference import blank_network
from deepme.networks import PASSES_A_STEP, forward_flops
from deepme.recipe import Recipe
from deepme.storage.tensors import read_tensors
from deepme.systems import NEEDS_FLAT, NEEDS_GATE, NEEDS_NO_EXPERT
from deepme.workspace import Workspace


@dataclass(frozen=True)
class NetworkCost:
    """What one network costs.

    Attributes:
        parameters: its weights.
        training: GFLOP of the whole training.
        image: GFLOP of one image.
    """

    parameters: int
    training: float
    image: float

    @property
    def training_alone(self) -> NetworkCost:
        """What is left of it where the network itself is not asked."""
        return replace(self, parameters=0, image=0.0)

    def __add__(self, other: NetworkCost) -> NetworkCost:
        """Add up all three."""
        return NetworkCost(
            self.parameters + other.parameters,
            self.training + other.training,
            self.image + other.image,
        )


def cost_of(fusion: str, recipe: Recipe, place: Workspace) -> Cost:
    """Add up the networks that a system asks, and the trainings it took.

    Args:
        fusion: of the system.
        recipe: what it was made with.
        place: where it is trained.
    """
    asked: list[NetworkCost] = []
    if fusion not in NEEDS_NO_EXPERT:
        groups = place.groups().content.groups
        asked += [network_cost(place.expert(group.number), place) for group in groups]
    experts_gflop = sum(cost.image for cost in asked)
    if fusion == "attention":
        # The experts are inside it.
        asked = [cost.training_alone for cost in asked]
        asked.append(network_cost(place.attention(), place))
    if fusion in NEEDS_GATE:
        gate = place.gate()
        # It learned on what the experts said of every training image.
        asking = experts_gflop * gate.training.images
        asked.append(_gate_cost(gate, place) + NetworkCost(0, asking, 0.0))
    sees_flat = fusion in NEEDS_GATE and recipe.gate.input == "flat"
    if fusion in NEEDS_FLAT or sees_flat:
        asked.append(network_cost(place.flat(), place))
    elif recipe.builds_on_flat(fusion):
        asked.append(network_cost(place.flat(), place).training_alone)
    return Cost(
        parameters=sum(cost.parameters for cost in asked),
        training_gflop=sum(cost.training for cost in asked),
        inference_gflop=sum(cost.image for cost in asked),
    )


def network_cost(expert: Expert, place: Workspace) -> NetworkCost:
    """Count a network on images.

    In warm-up there is no backward pass but the head's. From a cache, warm-up costs one
    pass and then the head's own.

    Args:
        expert: an expert, a gate on images, attention or the flat network.
        place: where it is trained.
    """
    network = blank_network(expert, place)
    gflop = forward_flops(network, expert.training.image_size) / 1e9
    stages = [epoch.stage for epoch in expert.training.history]
    warmups = stages.count("warmup")
    warmup = warmups * gflop
    if warmups and expert.origin.header.settings["warmup"] == "cache":
        head = 2 * network.head.weight.numel() / 1e9
        warmup = gflop + PASSES_A_STEP * warmups * head
    training = warmup + PASSES_A_STEP * (len(stages) - warmups) * gflop
    parameters = sum(weight.numel() for weight in network.parameters())
    return NetworkCost(parameters, training * expert.training.images, gflop)


def _gate_cost(gate: Expert, place: Workspace) -> NetworkCost:
    """Count the gate; but on images it is linear layers, two operations a weight."""
    if gate.origin.header.settings["input"] == "images":
        return network_cost(gate, place)
    tensors = read_tensors(gate.weights, WEIGHTS_KIND, WEIGHTS_SCHEMA)[1]
    parameters = sum(tensor.numel() for tensor in tensors.values())
    gflop = 2 * parameters / 1e9
    passes = PASSES_A_STEP * len(gate.training.history)
    return NetworkCost(parameters, passes * gate.training.images * gflop, gflop)
