"""What goes wrong with a watch."""

from lifecycle.errors import LifecycleError


class WatchError(LifecycleError, ValueError):
    """What is to be watched is named wrongly: `module:Class.close` is the form."""
