"""Bitget: USDT-margined perpetuals and spot, of classic accounts (API v2) and of unified ones (API v3).

Which of the two an account is, is asked once (``rest.Rest.prepare``); their words differ, what copyd is told does not.
Orders go by REST: the venue opens its order socket on approval only, and lets one address hold few connections.
"""
