"""Level B: the daemon's own shell (codecs, adapters, connection managers, pump, engine) on virtual time, over streams in memory.

``loop`` is an event loop whose clock jumps from timer to timer, ``transport`` the network between node and venue,
``venue`` the simulated exchange with its wire in Python, ``node`` the real daemon with a journal in memory, ``run`` one
seed from start to verdict.
"""
