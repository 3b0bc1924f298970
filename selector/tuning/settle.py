"""Is the best lane found before the last rung?"""

from __future__ import annotations

import math

from selector.tuning.compare import spread_of_changes
from selector.tuning.field import Field

CONFIDENT = 0.95


def stop_if_settled(field: Field, doublings: float) -> bool:
    """Rivals stop when the leader is the best with 95 %, or none can plausibly gain ε on it.

    Two things are uncertain: which images validation has (resampled), and what the rungs that are
    left would do to the order: they double the steps so many times, and each doubling is taken to move the
    lanes apart as much as the last rung did, as independent changes.
    """
    alive = [lane for lane in field.alive() if lane.best]
    if len(alive) < 2 or any(len(lane.trail) < 2 for lane in alive):
        return False  # nothing says yet what a round moves
    before, after = [lane.trail[-2] for lane in alive], [lane.trail[-1] for lane in alive]
    spread = spread_of_changes(before, after, field.metric, field.seed)
    entrants = {lane.label: [field.standing(lane)] for lane in alive}
    table = field.standings(entrants, unfinished=math.sqrt(doublings) * spread)
    leader = max(table, key=lambda label: table[label].p_best)
    most = max((-s.low for label, s in table.items() if label != leader), default=0.0)
    if table[leader].p_best < CONFIDENT and most >= field.epsilon:
        return False
    field.settled = True
    field.clock.tell(
        f"{leader} was settled after round {max(lane.rung for lane in alive)} (P(best) {table[leader].p_best:.2f}); "
        "its rivals stopped."
    )
    for lane in alive:
        lane.alive = lane.label == leader
    return True
