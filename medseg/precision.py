"""In which numbers a network computes: half precision where a card has it, or true float32."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from medseg import devices

FULL = "32-true"


def chosen(asked: str, accelerator: str) -> str:
    """What `auto` means here: bf16 where the card has it, else fp16 on a card, else float32."""
    if asked != "auto":
        return asked
    if not has_card(accelerator):
        return FULL
    return "bf16-mixed" if half_type() is torch.bfloat16 else "16-mixed"


def has_card(accelerator: str) -> bool:
    """Whether a trainer with this accelerator computes on CUDA."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def require_card(accelerator: str) -> None:
    """Refuse an accelerator that this machine lacks; CUDA is not woken where a card is known."""
    if accelerator not in ("gpu", "cuda") or devices.count() or torch.cuda.is_available():
        return
    if accelerator == "cuda" or not torch.backends.mps.is_available():
        text = f"trainer.accelerator={accelerator}: there is no such card here; use auto or cpu"
        raise ValueError(text)


def half_type() -> torch.dtype:
    """The card's bfloat16 if its hardware has it, whose range is float32's; else float16."""
    return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16


@contextlib.contextmanager
def exact(wanted: bool = True) -> Iterator[None]:
    """Float32 on CUDA as the processor has it: neither convolution nor product in TensorFloat-32.

    Where it is not `wanted`, everything stays as it is.
    """
    places: list[Any] = [torch.backends.cudnn, torch.backends.cuda.matmul] if wanted else []
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value
