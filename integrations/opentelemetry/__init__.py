"""The figures of managers as observable instruments of OpenTelemetry.

They are those of `lifecycle.integrations.prometheus`, read by the same tables, so that both say the same; and
as there nothing is touched where things happen: a reader asks for one exact snapshot of each manager when it
collects. ``lifecycle_object_bytes`` is ``lifecycle.object_bytes``. What differs, as OpenTelemetry has it:

- Counters have no ``_total``.
- There is no observable histogram: a distribution is two counters, ``….count`` and ``….sum``.

The instruments of one collection share a snapshot: it is taken again when one is asked for a second time.

- `instruments`: `LifecycleInstruments`
"""

from lifecycle.integrations.opentelemetry.instruments import LifecycleInstruments

__all__ = ["LifecycleInstruments"]
