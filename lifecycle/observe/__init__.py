"""What a manager knows of its objects, and the threads that find it out.

- `maintenance`: the thread that counts, watches, retries, sweeps and answers
- `snapshot`: the counts put together
- `ledger`: what each event means for the counts
- `observers`: the thread that calls observers and writes the log
- `leaks`, `lost`: what was forgotten or is held too long; deaths that nobody was told of
"""
