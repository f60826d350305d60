"""What a refresher has learnt about the provider; it lasts through all passes of a ``--watch``."""

import threading

from .circuit_breaker import CircuitBreaker
from .options import Options
from .pace import Pace
from .refusals import Refusals


class ProviderHealth:
    """Circuit breakers, refusals, and the pace that the provider and the options allow."""

    def __init__(self, options: Options, stop: threading.Event) -> None:
        # One for each kind of call: if disconnecting fails, refreshing is still tried.
        self.refreshing: CircuitBreaker = CircuitBreaker()
        self.revoking: CircuitBreaker = CircuitBreaker()
        self.refusals: Refusals = Refusals(watching=options.watching)
        self.pace: Pace = Pace(options.rate, stop)
        # Connections of another application are counted and warned about once.
        self.has_counted_foreign = False
