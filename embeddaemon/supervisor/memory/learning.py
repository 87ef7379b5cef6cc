"""What is known about a model before it starts: its card, its footprint, the order that its processes get. Pure."""

from __future__ import annotations

from embeddaemon.config.settings import StartMethod
from embeddaemon.errors import ConfigError
from embeddaemon.governor.footprint import AUTO, Footprint, footprint_from
from embeddaemon.governor.formula import WeightsSummary, Workload, stream_tokens
from embeddaemon.governor.samples import RAM
from embeddaemon.models.card import ModelCard
from embeddaemon.models.licences import is_non_commercial
from embeddaemon.models.order import LoadOrder
from embeddaemon.models.spec import ModelSpec
from embeddaemon.supervisor.model_state import ModelState
from embeddaemon.supervisor.state import Machine, State


def device_of(state: State, spec: ModelSpec) -> str:
    """The device that a model runs on, ``auto`` resolved."""
    return state.machine.device if spec.device == "auto" else spec.device


def memory_of(device: str) -> str:
    """The device whose memory a device takes: the CPU's and unified memory are the host's."""
    if device in ("cpu", "mps"):
        return RAM
    return "cuda:0" if device == "cuda" else device


def has_template(state: State, model: ModelState) -> bool:
    """Whether its workers are forked from a template; a device's state does not survive a fork."""
    return state.settings.start_method is StartMethod.FORK and device_of(state, model.spec) == "cpu"


def needs_fork_server(state: State, model: ModelState) -> bool:
    """Whether the next process that it lacks is forked by the fork server, itself or through a template."""
    return state.settings.start_method is StartMethod.FORK or is_to_be_fetched(model)


def is_to_be_fetched(model: ModelState) -> bool:
    """Whether it comes from the hub and has not come yet."""
    return model.spec.is_of_hub and model.folder is None


def threads_of(state: State, model: ModelState) -> int:
    """Compute threads of one worker: as configured, else its share of the cores."""
    return model.spec.threads or max(1, state.machine.cores // model.spec.workers.min)


def weights_of(card: ModelCard) -> WeightsSummary:
    """What of a card memory follows from."""
    return WeightsSummary(
        file_bytes=card.weights_bytes,
        parameters=card.parameters,
        hidden_size=card.hidden,
        intermediate_size=card.intermediate,
        gated=card.gated,
        vocabulary=card.vocabulary,
        max_tokens=card.max_tokens,
        family=card.family,
        heads_bytes=4 * card.head_parameters,
        answer_dim=max((card.dim, *card.dimensions)),
        sealed_bytes=card.weights_bytes if card.files.is_sealed else 0,
        attention_width=card.attention_width,
    )


def check_estimate(state: State, spec: ModelSpec, card: ModelCard) -> None:
    """Raises ConfigError when what a configuration declares cannot be right for a model as its folder has it."""
    model = ModelState(spec=spec)
    _footprint(model, weights_of(card), _workload(state, model), spec.estimate)


def card_learned(state: State, model: ModelState, card: ModelCard) -> None:
    """Note what the folder says. Raises ConfigError when the declared estimate cannot be right."""
    weights = weights_of(card)
    workload = _workload(state, model)
    model.automatic = _footprint(model, weights, workload, AUTO)
    model.computed = _footprint(model, weights, workload, model.spec.estimate)
    model.stream_tokens, model.element_bytes = stream_tokens(weights, workload), workload.element_bytes
    _warn_of_licence(state, model.card, card)
    model.card = card
    model.watch.forget()
    model.learn_facts(model.facts)
    model.pace.expect(card.parameters)


def _warn_of_licence(state: State, before: ModelCard | None, card: ModelCard) -> None:
    """At the start or when it is first fetched, and again when another folder says something else."""
    if is_non_commercial(card.licence) and (before is None or before.licence != card.licence):
        state.log("warning", "licence_non_commercial", model=card.name, licence=card.licence, source=card.source)


def _workload(state: State, model: ModelState) -> Workload:
    spec, device = model.spec, device_of(state, model.spec)
    return Workload(
        element_bytes=_element_bytes(spec.precision, state.machine),
        token_budget=spec.token_budget,
        start_method="fork" if has_template(state, model) else "spawn",
        quantized=spec.precision == "int8",
        threads=threads_of(state, model),
        device="cuda" if device.startswith("cuda") else "mps" if device == "mps" else "cpu",
    )


def _footprint(model: ModelState, weights: WeightsSummary, workload: Workload, estimate: int | str) -> Footprint:
    try:
        return footprint_from(estimate, weights, workload)
    except ConfigError as error:
        raise ConfigError(f"models.{model.name}.estimate: {error.message}") from error


def _element_bytes(precision: str, machine: Machine) -> int:
    if precision == "auto":
        return 2 if machine.has_bfloat16 or machine.device != "cpu" else 4
    return 4 if precision == "float32" else 2


def footprint_for(state: State, model: ModelState, card: ModelCard) -> Footprint:
    """What files are taken to need that are not the model's yet; measured ones if all tensors have the same shapes.

    Raises ConfigError when the declared estimate cannot be right.
    """
    if model.card is not None and model.footprint is not None and card.weights_digest == model.card.weights_digest:
        return model.footprint
    return _footprint(model, weights_of(card), _workload(state, model), model.spec.estimate)


def order_for(state: State, model: ModelState, card: ModelCard) -> LoadOrder:
    """What the process is told that loads the model, or files that are to be the model's."""
    return LoadOrder(
        card=card,
        # A template is for the CPU; who loads for itself finds out what "auto" is, with the driver at hand.
        device="cpu" if has_template(state, model) else model.spec.device,
        precision=model.spec.precision,
        token_budget=model.spec.token_budget,
        stream_tokens=stream_tokens(weights_of(card), _workload(state, model)),
        limits=state.settings.limits,
        state_folder=state.settings.state_folder,
        accept_inaccurate=model.spec.accept_inaccurate,
    )
