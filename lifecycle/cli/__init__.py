"""The command line: ``lifecycle`` and ``python -m lifecycle``.

- `main`: the commands, their arguments and exit statuses
- `running`: ``lifecycle run``
"""
