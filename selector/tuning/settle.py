"""Is the best configuration found before the last round?"""

from __future__ import annotations

import math

from selector.tuning.compare import spread_of_changes
from selector.tuning.field import Field

CONFIDENT = 0.95


def stop_if_settled(field: Field, doublings: float) -> bool:
    """Rivals stop when the leader is the best with 95%, or none can plausibly gain ε on it.

    Two things are uncertain: which images validation has (resampled), and what the rounds that are
    left would do to the order: they double the steps so many times, and each doubling is taken to move the
    configurations apart as much as the last round did, as independent changes.
    """
    alive = [configuration for configuration in field.alive() if configuration.best]
    if len(alive) < 2 or any(len(configuration.trail) < 2 for configuration in alive):
        return False  # nothing says yet what a round moves
    before, after = (
        [configuration.trail[-2] for configuration in alive],
        [configuration.trail[-1] for configuration in alive],
    )
    spread = spread_of_changes(before, after, field.metric)
    entrants = {configuration.label: [field.standing(configuration)] for configuration in alive}
    table = field.standings(entrants, unfinished=math.sqrt(doublings) * spread)
    leader = max(table, key=lambda label: table[label].p_best)
    most = max((-s.low for label, s in table.items() if label != leader), default=0.0)
    if table[leader].p_best < CONFIDENT and most >= field.epsilon:
        return False
    field.settled = True
    field.clock.tell(
        f"{leader} was settled after round {max(configuration.round for configuration in alive)} (P(best) {table[leader].p_best:.2f}); "
        "its rivals stopped."
    )
    for configuration in alive:
        configuration.alive = configuration.label == leader
    return True
