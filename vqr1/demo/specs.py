"""The demonstration's datasets by name. What draws their pictures is imported when they are read."""

from __future__ import annotations

from pathlib import Path

from vqr1.data import DatasetSpec, Splits, register


def _spec(name: str, title: str, scale: tuple[float, float]) -> DatasetSpec:
    def read(folder: Path) -> Splits:
        from vqr1.demo.datasets import read_demonstration

        return read_demonstration(name, folder)

    def references(folder: Path) -> None:
        from vqr1.demo.datasets import draw_references

        draw_references(name, folder)

    return DatasetSpec(
        name=name,
        title=title,
        range=scale,
        read=read,
        draw_references=references,
        fetch="made at first use, nothing to fetch",
        made_at_first_use=True,
        size=1250,
        group="content",
        licence="docs/demonstration_pictures.md",
        spread="std",
        pseudo_labels=True,
        evaluate_test_only=True,
        split="official",
    )


SPECS = (_spec("demo_five", "Demo 1-5", (1.0, 5.0)), _spec("demo_hundred", "Demo 0-100", (0.0, 100.0)))


def register_demonstration() -> None:
    """Make the demonstration's datasets known to :mod:`vqr1.data`; a second time nothing changes."""
    for spec in SPECS:
        register(spec)
