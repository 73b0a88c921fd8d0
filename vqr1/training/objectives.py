"""The recipe of each objective."""

from __future__ import annotations

from pathlib import Path

from vqr1.config import Config, Objective
from vqr1.errors import UserError
from vqr1.machine_choices import MachineChoices
from vqr1.training.comparison_recipe import ComparisonRecipe
from vqr1.training.depict_recipe import DepictRecipe
from vqr1.training.level_recipe import LevelRecipe
from vqr1.training.ranking_recipe import RankingRecipe
from vqr1.training.recipe import Recipe
from vqr1.training.trainer import Script

SUPERVISED: dict[Objective, type[Recipe]] = {
    Objective.levels: LevelRecipe,
    Objective.comparison: ComparisonRecipe,
    Objective.depict: DepictRecipe,
}


def recipe_of(config: Config, choices: MachineChoices, folder: Path, script: Script | None = None) -> Recipe:
    """How ``config.objective`` is trained. ``script`` gives the answers in place of the policy.

    Raises UserError naming the setting and the remedy.
    """
    if config.objective is Objective.rl2r:
        return RankingRecipe(config, choices, folder, script)
    if script is not None:
        raise UserError(f"objective={config.objective.value}: the policy draws no answers that a script could give")
    return SUPERVISED[config.objective](config, choices, folder)
