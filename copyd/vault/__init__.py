"""Exchange keys at rest, and what they may do.

    envelope   one key, sealed: AES-256-GCM under a data key of its own, bound to its name, venue, account and version
    kek        the key that wraps the data keys: a systemd credential, a guarded file, or Vault / OpenBao transit
    store      the keys by name in the ring beside the journal: add, rotate, wrap again, revoke
    policy     rights -> accepted or refused, with the reasons; pure
    checks     the rights of a key, asked of its venue
    watch      the same again while the daemon runs, paced
    duty       what the daemon does about what it finds
    limits     what the signer may sign, for one order: the twin of ``copyd._fast.guard``
    hygiene    no dump of a process that holds keys
    scan       a search for canaries in whatever a process leaves behind
    commands   ``copyd key``
"""
