"""The main job, shown and proven: a leader trades on the simulated exchange, thousands of followers follow.

    workload    what the leader does and who follows him, all from one seed
    exchange    the exchange process, its control port, the leader's own signed client
    leaders     the leaders' clients of the other venues, as small
    places      one exchange of a run with its leader; which lots, ticks and limits it has
    across      copies from one venue to another: what the verifier is fed with for each leader and venue
    view        what a person sees while it runs
    main        the order of events, with the SIGKILL in the middle
    history     what the verifier is fed with: the exchange's truth, the plan file, the daemon's claims
    ideal       the plain rule for one follower, exact integers
    reasons     each reason for a forgone quantity, derived once more from the truth
    verifier    compares the three; knows nothing of the daemon's engine, decoders, venue adapters or journal

The verifier is a second opinion, so nothing here imports the core, the compiled kernels, the venues or the journal.
"""
