"""What is counted in the workers, and the one endpoint that shows the sums of all of them.

Counting is a few operations on plain numbers; the workers send what they have counted to the
supervisor, which alone knows Prometheus. No label holds what a caller can choose.
"""

from keyauthority_server.metrics.counting import (
    CACHED,
    CLOCK_AHEAD,
    OLD_PEPPERS,
    STALENESS,
    CallMetrics,
    Metrics,
)

__all__ = ["CACHED", "CLOCK_AHEAD", "OLD_PEPPERS", "STALENESS", "CallMetrics", "Metrics"]
