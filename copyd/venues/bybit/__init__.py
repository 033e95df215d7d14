"""Bybit v5, unified trading account: linear perpetuals and spot.

One connection per account and role: ``/v5/trade`` takes orders, ``/v5/private`` tells what becomes of them. An answer to a
placement says no more than that it was received; executions and orders come as separate messages.
"""
