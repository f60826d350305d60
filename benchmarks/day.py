"""A day of ``--watch``, sped up: does one process keep everything fresh, outages included?

All that has a length is divided by the speed: the tokens' lives, the margin, the outages, and the
package's own pauses. So are the connections that take part, which leaves the provider with as many
calls a second as a million connections make. The table has a million rows all the same.
"""

import itertools
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.utils import timezone

from django_leadexec import models, refresh
from django_leadexec.models import LeadExecConnection
from django_leadexec.refresh import circuit_breaker, refresher, refusals, turn

from .databases import database, tidy
from .processes import StandIn, Worker

SITE = 1_000_000
LIFETIME, MARGIN, MINUTE, HOUR = 3_600.0, 600.0, 60.0, 3_600.0
# Begin and length, in seconds of the day.
OUTAGES = ((6 * HOUR, 5 * MINUTE), (12 * HOUR, 60 * MINUTE))
SAMPLE_EVERY = 0.25
# How late a refresh may be, in seconds of the day, without being called overdue.
GRACE = 5 * MINUTE


@dataclass(frozen=True)
class Day:
    speed: float
    hours: float
    rows: int
    site: int = SITE

    @property
    def taking_part(self) -> int:
        return round(self.site / self.speed)


DAYS = {
    "full": Day(100, 24, SITE),
    "quick": Day(600, 24, 100_000),
    # So few and so long that a machine with much else to do gets every one done, and some twice.
    "tiny": Day(600, 2, 2_000, site=60_000),
}


# The package's own pauses, which have to be as much shorter.
PAUSES = {
    circuit_breaker: ("FIRST_PAUSE", "LONGEST_PAUSE"),
    refusals: ("WINDOW",),
    refresher: ("MIN_SLEEP", "MAX_SLEEP", "PAUSE_AFTER_REFUSALS"),
    turn: ("LONGEST_HOLD",),
    models: ("FIRST_WAIT", "LONGEST_WAIT"),
}


def watch(speed: float, seconds: float) -> dict[str, Any]:
    """``--watch`` for that many seconds, at that speed; its counts."""
    for module, names in PAUSES.items():
        for name in names:
            setattr(module, name, getattr(module, name) / speed)
    options = refresh.Options.for_all("default", workers=64, watching=True)
    watcher, total = refresh.Refresher(options), refresh.Report()
    timer = threading.Timer(seconds, watcher.stop.set)
    timer.start()
    try:
        watcher.watch(total.add, every=1)
    finally:
        timer.cancel()
    return {"count": total.refreshed, "failed": total.failed, "rejected": total.rejected}


def play(day: Day, vendor: str) -> dict[str, Any]:
    """Run the day, and tell what was seen from outside. Times are in seconds of the day."""
    alias = f"{vendor}_large"
    seconds = day.hours * HOUR / day.speed
    pace = {
        "speed": day.speed,
        "seconds": seconds,
        "margin": MARGIN / day.speed,
    }
    with (
        database(alias, day.rows, 0),
        StandIn(0.02, LIFETIME / day.speed) as stand_in,
        Worker("watch", alias, stand_in.url, **pace) as worker,
    ):
        _spread_out(alias, day)
        worker.start()
        samples = _observe(alias, day, stand_in, seconds)
        result = worker.finish()
    return _summary(day, samples, result)


def _spread_out(alias: str, day: Day) -> None:
    """Those who take part were refreshed one after another during the last life of a token."""
    manager = LeadExecConnection.objects.using(alias)
    far = timezone.now() + timedelta(days=2)
    manager.update(refresh_after=far, expires_at=far)
    now, count = timezone.now(), day.taking_part
    rows = list(manager.order_by("pk").only("pk")[:count])
    for number, row in enumerate(rows):
        due_in = (LIFETIME - MARGIN) * number / count / day.speed
        row.refresh_after = now + timedelta(seconds=due_in)
        row.expires_at = row.refresh_after + timedelta(seconds=MARGIN / day.speed)
    manager.bulk_update(rows, ["refresh_after", "expires_at"], batch_size=200)
    tidy(alias)


Sample = dict[str, float]


def _observe(alias: str, day: Day, stand_in: StandIn, seconds: float) -> list[Sample]:
    samples: list[Sample] = []
    began = time.monotonic()
    is_down = False
    while (elapsed := time.monotonic() - began) < seconds:
        hour = elapsed * day.speed
        should_be_down = any(start <= hour < start + length for start, length in OUTAGES)
        if should_be_down != is_down:
            is_down = should_be_down
            stand_in.tell("down" if is_down else "up")
        samples.append({"at": hour, "calls": stand_in.stats()["calls"]} | _late(alias, day))
        time.sleep(SAMPLE_EVERY)
    return samples


def _late(alias: str, day: Day) -> Sample:
    now = timezone.now()
    rows = LeadExecConnection.objects.using(alias).order_by()
    overdue = rows.filter(
        app_id="bench", refresh_after__lt=now - timedelta(seconds=GRACE / day.speed)
    )
    # Whose refresh has failed waits out its backoff, and may expire meanwhile.
    expired = rows.filter(app_id="bench", expires_at__lt=now)
    return {"overdue": overdue.count(), "expired": expired.count()}


def _summary(day: Day, samples: list[Sample], result: dict[str, Any]) -> dict[str, Any]:
    def within(start: float, end: float) -> list[Sample]:
        return [sample for sample in samples if start <= sample["at"] < end]

    def most(key: str, chosen: list[Sample]) -> float:
        return max((sample[key] for sample in chosen), default=0)

    def back_after(key: str, end: float) -> float | None:
        """Seconds until there were none, and there stayed none for ten minutes."""
        late = [sample["at"] for sample in within(end, end + HOUR) if sample[key]]
        return round(max(late) - end) if late else 0

    outages = []
    quiet = [sample for sample in samples if sample["at"] > 10 * MINUTE]
    for start, length in OUTAGES:
        end = start + length
        if end > day.hours * HOUR:
            continue
        during, after = within(start, end), within(end, end + HOUR)
        quiet = [sample for sample in quiet if not start <= sample["at"] < end + HOUR]
        rates = [
            (later["calls"] - earlier["calls"]) / (later["at"] - earlier["at"]) * day.speed
            for earlier, later in itertools.pairwise(after)
        ]
        outages.append(
            {
                "minutes": length / MINUTE,
                "most_expired": most("expired", [*during, *after]),
                "none_expired_after": back_after("expired", end),
                "none_overdue_after": back_after("overdue", end),
                "most_calls_a_second": round(max(rates, default=0)),
            }
        )
    return {
        "speed": day.speed,
        "hours": day.hours,
        "rows": day.rows,
        "taking_part": day.taking_part,
        "stand_for": day.site,
        "refreshed": result["count"],
        "failed": result["failed"],
        "rejected": result["rejected"],
        "calls_a_second": round(result["count"] / result["seconds"]),
        "cores_busy": round(result["cpu"] / result["seconds"], 2),
        "most_expired_otherwise": most("expired", quiet),
        "most_overdue_otherwise": most("overdue", quiet),
        "outages": outages,
    }
