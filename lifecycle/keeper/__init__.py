"""What a manager knows of its objects, and the threads that know it.

- `keeper`: the thread that counts, watches, retries, sweeps and answers
- `figures`: the counts put together
- `counting`: what each event means for the counts
- `lost`: deaths that nobody was told of, found by looking
- `observer`: the thread that tells hooks and the log
- `leaks`: what was forgotten, or is held too long
"""
