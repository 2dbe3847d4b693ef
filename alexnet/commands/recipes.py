"""`alexnet recipes`: the named configurations."""

import json
from dataclasses import dataclass

from alexnet.config_json import to_json
from alexnet.recipes import RECIPES


@dataclass(frozen=True)
class Options:
    """The format of the list."""

    # Print JSON, with each recipe's whole configuration.
    json: bool = False


def main(options: Options) -> int:
    """Print each recipe with its source, its published result, and the result measured here."""
    if options.json:
        listed = {
            name: {
                "source": found.source,
                "published": found.published,
                "measured": found.measured,
                "config": to_json(found.config),
            }
            for name, found in RECIPES.items()
        }
        print(json.dumps(listed, indent=2))
        return 0
    for name, found in RECIPES.items():
        config = found.config
        print(f"{name}: variant {config.model.variant} on {config.data.dataset}")
        print(f"  source: {found.source}")
        print(f"  published: {found.published}")
        print(f"  run here: {found.measured}\n")
    print("alexnet train --recipe NAME --help lists a recipe's settings as defaults.")
    return 0
