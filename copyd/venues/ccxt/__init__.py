"""Any exchange that ccxt knows, for linear perpetuals on one-way accounts: the long tail.

ccxt runs in a process and an environment of its own (``worker.py``) and is never imported here. Nothing is pushed: executions,
orders and prices are asked for, so a leader is heard a poll late and a follower's order is slower than over an adapter of its
own. An exchange whose orders cannot be asked for by our own id is refused.
"""
