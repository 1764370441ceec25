"""Finds the instants at which a schedule is due: cron fields in a time zone.

Changes of the clock are handled as by Debian's cron: a fixed time that is skipped in spring is due
right after the gap, one that comes twice in autumn is due once, and a schedule that is due every
hour or more often stays so.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from routoo.errors import InputError


class Missed(StrEnum):
    """What a scheduler does about instants that passed while no scheduler ran."""

    RUN_ONCE = "run-once"
    """It runs the latest one and leaves out the earlier ones."""
    SKIP = "skip"
    """It runs none of them."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """Cron fields in a time zone.

    Attributes:
        cron: Minute, hour, day of the month, month, day of the week.
        time_zone: IANA name.
    """

    cron: str
    time_zone: str

    def next_after(self, instant: datetime) -> datetime:
        """Return the first due instant after another, in UTC.

        Raises:
            InputError: The fields or the zone can't be used, or nothing is ever due.
        """
        start = instant.astimezone(self._zone())
        try:
            due = CronSim(self.cron, start)
        except CronSimError as error:
            raise InputError(
                f"the cron fields can't be used: {error}",
                value=self.cron,
                remedy='Give five, such as "0 2 * * *" for every night at two',
            ) from error
        # Asked from within the hour that comes twice, cronsim may name an instant of the first one.
        for found in due:
            if found.astimezone(UTC) > instant:
                return found.astimezone(UTC)
        raise InputError("the cron fields name no instant in the next 50 years", value=self.cron)

    def latest_due(self, first: datetime, now: datetime) -> tuple[datetime, int]:
        """Return the latest due instant up to now, and how many lie before it.

        Args:
            first: A due instant, not after `now`.
            now: The present.
        """
        latest, earlier = first, 0
        while (following := self.next_after(latest)) <= now:
            latest, earlier = following, earlier + 1
        return latest, earlier

    def _zone(self) -> ZoneInfo:
        try:
            return ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise InputError(
                "there is no such time zone",
                value=self.time_zone,
                remedy="Give an IANA name such as Europe/Zurich or UTC",
            ) from error
