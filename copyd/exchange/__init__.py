"""The simulated exchange: a venue in a process, with real matching, real sockets and a real venue's wire format.

    main           the command: options, ready file, signals
    base           what every dialect's exchange has: engine, accounts, makers, ports, clockwork, the truth's logs
    control        the loopback port: accounts, market, faults, the truth
    transfers      money between wallets, each id once, for whoever settles
    faults         rules that make requests and events go wrong
    accounts       names and keys
    model          instruments and refusal texts
    makers         how the market makers quote

Any dialect, in Python:

    host           connections, requests, faults applied
    dialect        what a dialect gives the host and may use of it; one module per venue
    windows        limits: counts in windows of time
    websocket      handshake and frames
    spot           the spot engine: books, balances per asset, its makers

Binance USD-M, on a compiled wire:

    server         composition, clockwork, WebSocket and REST entry, faults applied
    binance_usdm   the dialect: every path and method, refusals, how state looks in that venue's JSON
    streams        listen keys and subscriptions
    limits         request weight, connection attempts
    batch          the batch door
    _fast/sim_engine, sim_makers, sim_wire   matching and margin; quoting; frames, fast order entry, user events

It shares no code with the daemon's core and venues: what it says about an order is independent evidence.
"""
