"""What a manager knows of its objects, and the threads that know it.

`keeper` is the thread that counts, watches and answers; `counting` says what each event means for the figures, `figures` puts
them together, `leaks` finds what was forgotten, and `observer` is the thread behind it that tells hooks and the log.
"""
