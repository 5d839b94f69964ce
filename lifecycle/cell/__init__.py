"""One registered object: its cell, the table it stands in, its shares, and what can be said of it.

`cell` holds the idea that everything else stands on; `registry` the tables of a manager, `shares` who shuts the door as the last,
`fates` what messages say of an object.
"""
