"""The batch path: orders as fixed-size binary records to an exchange that runs copyd beside its own matching engine.

``PROTOCOL.md`` is the wire format. Then read: ``contract`` (the terms, as data), ``errors`` (the codes), ``codec`` (the
readable twin of ``copyd._fast.batch_wire``), ``signing`` (the proofs of a login), ``instruments`` (their numbers at the
engine), ``gateway`` (the client), ``conformance`` (what an engine's own implementation is held against). It is a path for
orders alone: leaders and follower balances are watched elsewhere.
"""
