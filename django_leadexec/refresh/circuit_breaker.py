"""A circuit breaker: stops calls to a provider that fails, and probes until it works again."""

from ..clock import backoff, monotonic

# Failures in a row that open the circuit.
FAILURE_THRESHOLD = 20
# Failed probes after which a run that is not watching gives up.
MAX_PROBES = 3
# Seconds before the first probe. The pause then doubles.
FIRST_PAUSE = 1.0
# The longest pause before a probe, in seconds.
LONGEST_PAUSE = 60.0


class CircuitBreaker:
    """What was learnt about the provider from calls of one kind. Lives as long as a ``--watch``.

    Closed: calls pass. Open: none does, for ``seconds_until_probe()``. Half-open, after that: one
    does, the probe. Whether it fails decides if the circuit is open again or closed.
    """

    def __init__(self) -> None:
        self.failures: int = 0
        self.failed_probes: int = 0
        self._probe_at = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether calls pass."""
        return self.failures < FAILURE_THRESHOLD

    @property
    def is_exhausted(self) -> bool:
        """Whether so many probes have failed that a run which is not watching gives up."""
        return self.failed_probes >= MAX_PROBES

    def seconds_until_probe(self) -> float:
        """Seconds until a call may begin; zero or less if it may now."""
        return self._probe_at - monotonic()

    def record_answer(self) -> None:
        """The provider has answered, whatever it said. Closes the circuit."""
        self.failures = self.failed_probes = 0

    def record_failure(self, *, is_probe: bool) -> bool:
        """A call has failed; returns whether this opens the circuit.

        Calls that were under way when the circuit opened are no probes: their failures tell
        nothing new.
        """
        self.failures += 1
        opens = self.failures == FAILURE_THRESHOLD
        if is_probe and not opens:
            self.failed_probes += 1
        if opens or is_probe:
            pause = backoff(self.failed_probes + 1, first=FIRST_PAUSE, longest=LONGEST_PAUSE)
            self._probe_at = monotonic() + pause
        return opens
