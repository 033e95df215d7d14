"""copyd: a copy-trading engine. A leader trades; every follower's account follows, exactly once."""

__version__ = "0.1.0"
