"""Level B: the daemon's own shell (codecs, adapters, connection managers, pump, engine) on virtual time, over streams in memory.

``loop`` is an event loop whose clock jumps from timer to timer, ``transport`` the network between node and venue,
``venue`` the simulated exchange of Binance's dialect with its wire in Python (``pywire``), ``hosted`` that of any other dialect,
``inhabited`` what both have: accounts, drawn faults, reads that lag; ``spoil`` what becomes of messages, ``book`` acceptances
held against the journal, ``node`` the real daemon with a journal in memory, ``run`` one seed from start to verdict.
"""
